"""Which titles are played by the same people, in closed form: a vector to read a title by and one to find it by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from models.data import Float32, Histories, Int64
from models.settings import RetrievalConfig

_OVERSAMPLING, _POWERS = 16, 3


@dataclass(frozen=True)
class Coplays:
    """B ≈ `reads` · `shows`ᵀ, (K, R) each, over K titles (ids ascending): B_ij is how much having played i speaks for j.

    A title that is not among them reads and shows the zero vector: it says nothing.
    """

    title_ids: Int64
    reads: Float32
    shows: Float32

    @property
    def rank(self) -> int:
        """R."""
        return int(self.reads.shape[1])

    def of(self, title_ids: Int64) -> tuple[Float32, Float32]:
        """What titles (n,) are read by and found by, (n, R) each."""
        places = np.searchsorted(self.title_ids, title_ids)
        places = np.minimum(places, max(len(self.title_ids) - 1, 0))
        if len(self.title_ids) == 0:
            nothing = np.zeros((len(title_ids), self.rank), np.float32)
            return nothing, nothing
        known = (self.title_ids[places] == title_ids)[:, None].astype(np.float32)
        return self.reads[places] * known, self.shows[places] * known


def no_coplays(rank: int) -> Coplays:
    """Nothing is known of any title."""
    nothing = np.zeros((0, rank), np.float32)
    return Coplays(np.zeros(0, np.int64), nothing, nothing)


def fit_coplays(
    histories: Histories, *, rank: int, ridge: float, max_titles: int, rng: np.random.Generator
) -> Coplays:
    """The best approximation of rank R to EASE's item-to-item weights (Steck, WWW 2019, eq. 8).

      1. count who played both                       G = XᵀX,  X_ui = 1 where user u played i
      2. regress each title on all others            P = (G + λI)⁻¹,  B_ij = -P_ij / P_jj,  B_jj = 0
      3. keep the R strongest directions             B ≈ U Σ Vᵀ  (randomised: Halko, Martinsson & Tropp 2011)

    Of titles that at least two users have played the `max_titles` most played are kept: the inverse takes their
    number cubed. With fewer titles than R the last directions are zero.
    """
    played = _played(histories)
    viewers = np.asarray(played.matrix.sum(axis=0)).ravel()
    kept = np.argsort(-viewers, kind="stable")[:max_titles]
    kept = np.sort(kept[viewers[kept] >= 2])
    if len(kept) < 2:
        return no_coplays(rank)
    weights = item_weights(played.matrix[:, kept], ridge)
    left, right = _factors(weights, rank, rng)
    return Coplays(played.title_ids[kept], left, right)


def known_coplays(histories: Histories, config: RetrievalConfig) -> Coplays:
    """Co-plays of what was watched, as `config` wants them."""
    return fit_coplays(
        histories,
        rank=config.coplays,
        ridge=config.coplay_ridge,
        max_titles=config.coplay_titles,
        rng=np.random.default_rng(config.seed),
    )


@dataclass(frozen=True)
class _Played:
    title_ids: Int64
    matrix: sp.csr_matrix  # (U, T)


def _played(histories: Histories) -> _Played:
    titles, column = np.unique(histories.values, return_inverse=True)
    ones = np.ones(len(column), dtype=np.float32)
    shape = (len(histories), len(titles))
    matrix = sp.csr_matrix((ones, (histories.owners(), column)), shape=shape)
    matrix.data[:] = 1  # a title played twice counts once
    return _Played(titles, matrix)


def item_weights(matrix: sp.csr_matrix, ridge: float) -> Float32:
    """EASE's B (T, T) of who played what (U, T), 0 or 1, through the Cholesky factor of G + λI (step 2 of `fit_coplays`).

    Raises:
        LinAlgError: λ is too small for the precision of a float32.
    """
    gram: Float32 = (matrix.T @ matrix).toarray(order="F").astype(np.float32)
    gram[np.diag_indices(len(gram))] += np.float32(ridge)
    factor, failed = lapack.spotrf(gram, overwrite_a=True)
    inverse, failed_too = lapack.spotri(factor, overwrite_c=True)
    if failed or failed_too:
        raise np.linalg.LinAlgError(f"G + {ridge}·I of {len(gram)} titles is not positive definite.")
    upper = np.triu(inverse, 1)
    weights: Float32 = (upper + upper.T) / -np.diag(inverse)
    return weights


def _factors(weights: Float32, rank: int, rng: np.random.Generator) -> tuple[Float32, Float32]:
    """U √Σ and V √Σ of the `rank` largest singular values."""
    n = len(weights)
    sketch = rng.standard_normal((n, min(n, rank + _OVERSAMPLING))).astype(np.float32)
    basis, _ = np.linalg.qr(weights @ sketch)
    for _ in range(_POWERS):
        basis, _ = np.linalg.qr(weights.T @ basis)
        basis, _ = np.linalg.qr(weights @ basis)
    small, values, right = np.linalg.svd(basis.T @ weights, full_matrices=False)
    root = np.sqrt(values[:rank])
    found = (basis @ small[:, :rank]) * root, right[:rank].T * root
    missing = max(rank - found[0].shape[1], 0)
    left, right_ = (np.pad(part, ((0, 0), (0, missing))).astype(np.float32) for part in found)
    return left, right_
