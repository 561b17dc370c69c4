"""Candidate generation: a user tower and the catalogue it searches, inseparable.

A title's score for a user is the logit s = u·v/τ + g·b: the user's taste u for the title's unit vector v, and the
ways b in which the title is popular, as far as each pulls the user, g ≥ 0. Appending b to v and g to u/τ makes it
one inner product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from models import artifact
from models.arrays import Arrays
from models.artifact import Artifact, ArtifactError
from models.coplays import Coplays, known_coplays
from models.data import Candidates, Float32, Histories, Int64, MalformedData, RetrievalPeriod
from models.inputs import Standardiser
from models.mapped import tensor_of
from models.settings import RetrievalConfig
from models.signature import Signature
from models.towers import TitleTower, UserTower

KIND = "retriever"
_USERS_AT_ONCE = 2048  # bounds the memory of a batch
_NOTHING: Int64 = np.empty(0, np.int64)


class UnknownTitle(LookupError):
    """A title id that the encoded catalogue does not hold."""

    def __init__(self, missing: Sequence[int], catalogue: int) -> None:
        shown = ", ".join(map(str, missing[:5]))
        super().__init__(f"titles {shown} are not among the {catalogue:,} of this catalogue.")


@dataclass(frozen=True)
class Towers:
    """Everything training produced: both towers, their standardisation, and which titles have an id vector."""

    user: UserTower
    title: TitleTower
    user_inputs: Standardiser
    title_inputs: Standardiser
    known_titles: Int64  # ascending; the title in place i has row i + 1 of the id table
    coplays: Coplays
    config: RetrievalConfig
    boost: float = 1.0  # of the learnt weight of co-plays, by validation

    def encode_titles(self, title_ids: Int64, title_features: Float32) -> tuple[Float32, Float32]:
        """What titles, known or new, are read by (T, D + R) and found by (T, D + R + M)."""
        inputs = torch.from_numpy(self.title_inputs.transform(title_features))
        rows = torch.from_numpy(identity_rows(title_ids, self.known_titles))
        with torch.inference_mode():
            vectors, popularity = self.title(inputs, rows)
        reads, shows = self.coplays.of(title_ids)
        return (
            np.concatenate([vectors.numpy(), reads * np.float32(self.boost)], axis=1),
            np.concatenate([vectors.numpy(), shows, popularity.numpy()], axis=1),
        )

    def catalogue(self, title_ids: Int64, title_features: Float32) -> Catalogue:
        """Titles encoded and indexed."""
        return Catalogue.of(title_ids, *self.encode_titles(title_ids, title_features))

    def encode_users(self, user_features: Float32, reads: Float32, seen: NDArray[np.bool_]) -> Float32:
        """Queries (B, D + R + M) from features (B, Fu) and watched titles (B, L, D + R) where `seen`."""
        inputs = torch.from_numpy(self.user_inputs.transform(user_features))
        with torch.inference_mode():
            queries, _ = self.user(inputs, torch.from_numpy(reads), torch.from_numpy(seen))
        found: Float32 = queries.numpy()
        return found


@dataclass(frozen=True)
class Catalogue:
    """Encoded titles: ids (T,) ascending, what a watched one is read by, and what one is found by.

    `reads` is (T, D + R): a unit vector and co-plays; `keys` (T, D + R + M): the vector, co-plays, popularities.
    """

    title_ids: Int64
    reads: Float32
    keys: Float32
    index: faiss.IndexFlatIP = field(repr=False, compare=False)

    @classmethod
    def of(cls, title_ids: Int64, reads: Float32, keys: Float32) -> Catalogue:
        """An exact inner-product index over `keys`, ordered by title id."""
        if len(title_ids) == 0 or not len(keys) == len(reads) == len(title_ids):
            raise MalformedData(f"{len(title_ids)} titles with keys of shape {keys.shape} are no catalogue.")
        order = np.argsort(title_ids, kind="stable")
        ids, ordered = title_ids[order], np.ascontiguousarray(keys[order], dtype=np.float32)
        if (np.diff(ids) == 0).any():
            raise MalformedData("a catalogue holds a title id twice.")
        index = faiss.IndexFlatIP(ordered.shape[1])
        index.add(ordered)
        return cls(ids, np.ascontiguousarray(reads[order], dtype=np.float32), ordered, index)

    def rows(self, title_ids: Int64) -> Int64:
        """The row of each title, -1 where it is not in the catalogue."""
        return find(title_ids, self.title_ids)


@dataclass(frozen=True)
class Retriever:
    """The retrieval model ready to serve. Its towers and its catalogue are saved and loaded as one."""

    towers: Towers
    catalogue: Catalogue
    user_signature: Signature
    title_signature: Signature
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def config(self) -> RetrievalConfig:
        """The settings it was trained with."""
        return self.towers.config

    @property
    def title_ids(self) -> Int64:
        """The titles it can return, ascending."""
        return self.catalogue.title_ids

    def candidates(
        self, user_features: Float32, history: Int64, k: int, exclude: Int64 | None = None
    ) -> Candidates:
        """The k titles with the highest scores for one user, without `exclude`.

        `user_features` is (Fu,), `history` the watched title ids, newest last; titles no longer in the
        catalogue are skipped. Fewer than k are returned only when the catalogue has no more.
        """
        queries = self._queries(user_features[None], Histories.of_lists([history.tolist()]))
        rows = _NOTHING if exclude is None else self.catalogue.rows(np.unique(exclude))
        return self._search(queries, [rows[rows >= 0]], k)[0]

    def candidates_batch(
        self, user_features: Float32, histories: Histories, k: int, *, exclude_watched: bool = True
    ) -> list[Candidates]:
        """`candidates` of many users, (U, Fu), each without the titles of its own history."""
        found: list[Candidates] = []
        for start in range(0, len(histories), _USERS_AT_ONCE):
            stop = min(start + _USERS_AT_ONCE, len(histories))
            some = histories.between(start, stop)
            watched = [np.unique(rows[rows >= 0]) for rows in self._watched(some)]
            queries = self._queries(user_features[start:stop], some)
            found += self._search(queries, watched if exclude_watched else [_NOTHING] * len(some), k)
        return found

    def _watched(self, histories: Histories) -> Iterator[Int64]:
        """Each user's whole history as rows of the catalogue."""
        rows = self.catalogue.rows(histories.values)
        return (
            rows[start:stop]
            for start, stop in zip(histories.offsets[:-1], histories.offsets[1:], strict=True)
        )

    def title_vectors(self, title_ids: Int64) -> Float32:
        """Unit vectors (n, D) of titles of the catalogue.

        Raises:
            UnknownTitle: a title is not in the catalogue.
        """
        rows = self.catalogue.rows(title_ids)
        if (rows < 0).any():
            raise UnknownTitle(title_ids[rows < 0].tolist(), len(self.title_ids))
        vectors: Float32 = self.catalogue.keys[rows, : self.config.dimension]
        return vectors

    def with_titles(
        self, title_ids: Int64, title_features: Float32, coplays: Coplays | None = None
    ) -> Retriever:
        """The same towers over another catalogue, or over the same one with fresher features (T, Ft) and co-plays."""
        towers = self.towers if coplays is None else replace(self.towers, coplays=coplays)
        return replace(self, towers=towers, catalogue=towers.catalogue(title_ids, title_features))

    def also_over(self, title_ids: Int64, title_features: Float32) -> Retriever:
        """With titles (n,) that came after its training, found by what the towers make of their features (n, Ft).

        Nobody has a co-play with them yet, and they have no identity of their own. Titles of the catalogue stay as they are.
        """
        new = self.catalogue.rows(title_ids) < 0
        if not new.any():
            return self
        held, (reads, keys) = self.catalogue, self.towers.encode_titles(title_ids[new], title_features[new])
        catalogue = Catalogue.of(
            np.concatenate([held.title_ids, title_ids[new]]),
            np.concatenate([held.reads, reads]),
            np.concatenate([held.keys, keys]),
        )
        return replace(self, catalogue=catalogue)

    def at(self, period: RetrievalPeriod) -> Retriever:
        """The same towers over what was on offer, and what was known of co-plays, when `period` began."""
        coplays = known_coplays(period.histories, self.config)
        return self.with_titles(period.title_ids, period.title_features, coplays)

    def _queries(self, user_features: Float32, histories: Histories) -> Float32:
        rows = self.catalogue.rows(histories.last(self.config.history))
        return self.towers.encode_users(user_features, self.catalogue.reads[rows], rows >= 0)

    def _search(self, queries: Float32, excluded: Sequence[Int64], k: int) -> list[Candidates]:
        """Exact search for k titles and as many as may be excluded, which are then dropped."""
        if k < 1:
            raise ValueError(f"k is {k}; ask for one candidate at least.")
        depth = min(k + max(map(len, excluded), default=0), len(self.title_ids))
        scores, rows = self.catalogue.index.search(np.ascontiguousarray(queries), depth)
        return [
            self._best(user_scores, user_rows, unwanted, k)
            for user_scores, user_rows, unwanted in zip(scores, rows, excluded, strict=True)
        ]

    def _best(self, scores: Float32, rows: Int64, excluded: Int64, k: int) -> Candidates:
        wanted = ~np.isin(rows, excluded) if len(excluded) else slice(None)
        scores, rows = scores[wanted], rows[wanted]
        order = np.lexsort((rows, -scores))[:k]  # rows ascend with title ids
        return Candidates(self.title_ids[rows[order]], scores[order])

    def save(self, folder: Path) -> str:
        """Write the whole retriever as one artifact and return its digest."""
        weights = {
            **_state("user", self.towers.user),
            **_state("title", self.towers.title),
            **self.towers.user_inputs.to_arrays("user_inputs"),
            **self.towers.title_inputs.to_arrays("title_inputs"),
            "known_titles": self.towers.known_titles,
            "coplays.boost": np.array([self.towers.boost]),
            "coplays.title_ids": self.towers.coplays.title_ids,
            "coplays.reads": self.towers.coplays.reads,
            "coplays.shows": self.towers.coplays.shows,
        }
        titles: dict[str, NDArray[Any]] = {
            "title_ids": self.catalogue.title_ids,
            "reads": self.catalogue.reads,
            "keys": self.catalogue.keys,
            "towers_sha256": artifact.arrays_digest(weights),
        }
        documents = {
            "config": self.config.model_dump(mode="json"),
            "signature": {"user": self.user_signature.to_json(), "title": self.title_signature.to_json()},
            "metrics": dict(self.metrics),
        }
        return artifact.save(Artifact(KIND, {"weights": weights, "titles": titles}, documents), folder)

    @classmethod
    def load(cls, folder: Path) -> Retriever:
        """Read a retriever, refusing parts of different versions even where each is intact.

        Raises:
            ArtifactError: the folder is not one whole retriever.
        """
        found = artifact.load(folder, KIND)
        weights, titles = found.arrays["weights"], found.arrays["titles"]
        if not np.array_equal(titles["towers_sha256"], artifact.arrays_digest(weights)):
            raise ArtifactError(folder, "the title matrix was made by other towers than those beside it.")
        signature = found.documents["signature"]
        config = RetrievalConfig.model_validate(found.documents["config"])
        towers = _towers(folder, weights, config)
        read, found_by = (
            config.dimension + config.coplays,
            config.dimension + config.coplays + config.channels,
        )
        n_titles = len(titles["title_ids"])
        shapes = titles["reads"].shape, titles["keys"].shape
        if shapes != ((n_titles, read), (n_titles, found_by)):
            raise ArtifactError(
                folder,
                f"{n_titles} title ids read by {shapes[0]} and found by {shapes[1]} numbers; its config says "
                f"{read} and {found_by} each.",
            )
        retriever = cls(
            towers,
            Catalogue.of(titles["title_ids"], titles["reads"], titles["keys"]),
            Signature.from_json(signature["user"]),
            Signature.from_json(signature["title"]),
            found.documents["metrics"],
        )
        retriever._refuse_other_widths(folder)
        return retriever

    def _refuse_other_widths(self, folder: Path) -> None:
        for side, signature, inputs in (
            ("user", self.user_signature, self.towers.user_inputs),
            ("title", self.title_signature, self.towers.title_inputs),
        ):
            if signature.width != inputs.n_features:
                raise ArtifactError(
                    folder, f"{signature.width} {side} features signed, {inputs.n_features} standardised."
                )


def identity_rows(title_ids: Int64, known: Int64) -> Int64:
    """Rows of the id table: 1 + place among the ascending `known`, 0 for a title not among them."""
    return find(title_ids, known) + 1


def find(wanted: Int64, ascending: Int64) -> Int64:
    """The place of each wanted id (any shape) in `ascending`, -1 where it is not."""
    if len(ascending) == 0:
        return np.full(wanted.shape, -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[places] == wanted, places, -1)


def _state(prefix: str, module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    return {f"{prefix}.{name}": tensor.cpu().numpy() for name, tensor in module.state_dict().items()}


def _towers(folder: Path, weights: Arrays, config: RetrievalConfig) -> Towers:
    user_inputs = Standardiser.from_arrays(weights, "user_inputs")
    title_inputs = Standardiser.from_arrays(weights, "title_inputs")
    known = weights["known_titles"]
    user = UserTower(user_inputs.width, config)
    title = TitleTower(title_inputs.width, len(known), config)
    for prefix, module in (("user.", user), ("title.", title)):
        state = {
            name.removeprefix(prefix): tensor_of(array)
            for name, array in weights.items()
            if name.startswith(prefix)
        }
        try:
            module.load_state_dict(state, assign=True)
        except RuntimeError as problem:
            raise ArtifactError(folder, f"its weights do not fit its config: {problem}") from problem
        module.eval()
    coplays = Coplays(weights["coplays.title_ids"], weights["coplays.reads"], weights["coplays.shows"])
    boost = float(weights["coplays.boost"][0])
    return Towers(user, title, user_inputs, title_inputs, known, coplays, config, boost)
