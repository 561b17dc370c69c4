"""What the choice of artwork is learnt from: shown images with what followed, and what each image looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.data import Float32, Int64, MalformedData

Float64 = NDArray[np.float64]


class UnknownArtwork(LookupError):
    """Artwork ids that the images do not hold."""

    def __init__(self, missing: Sequence[int], images: int) -> None:
        shown = ", ".join(map(str, missing[:5]))
        super().__init__(f"artworks {shown} are not among the {images:,} images.")


@dataclass(frozen=True)
class ArtworkLog:
    """One row per image shown whose reward window has closed: everything (N,), `context` (N, d), null is NaN.

    `play` is 0 or 1; `propensity` is the probability with which the image was drawn. The rows may come in any order.
    """

    impression_id: Int64
    user_id: Int64
    title_id: Int64
    artwork_id: Int64
    context: Float32
    play: Float32
    propensity: Float64

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if len(getattr(self, name)) != len(self.impression_id):
                given = len(getattr(self, name))
                raise MalformedData(f"{name} has {given} rows, impression_id has {len(self.impression_id)}.")
        if self.context.ndim != 2:
            raise MalformedData(f"context has shape {self.context.shape}; it is (rows, features).")
        if not np.isin(self.play, (0, 1)).all():
            raise MalformedData("play is 0 or 1 in every row: leave out rows whose window is still open.")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise MalformedData("propensity lies above 0 and up to 1 in every row; others were not drawn.")

    def __len__(self) -> int:
        return len(self.impression_id)

    def take(self, rows: Int64 | NDArray[np.bool_]) -> ArtworkLog:
        """Some of the rows, by number or mask."""
        return ArtworkLog(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    def canonical(self) -> ArtworkLog:
        """Each impression once, in order of id: whatever order or repetition a log came with is gone."""
        _, rows = np.unique(self.impression_id, return_index=True)
        return self if len(rows) == len(self) and (np.diff(rows) > 0).all() else self.take(rows)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical log."""
        log, sha = self.canonical(), hashlib.sha256()
        for name in self.__dataclass_fields__:
            sha.update(np.ascontiguousarray(getattr(log, name)).tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class ArtworkImages:
    """The images there are: `artwork_id` (A,) ascending, `title_id` (A,), `features` (A, m), null is NaN."""

    artwork_id: Int64
    title_id: Int64
    features: Float32

    def __post_init__(self) -> None:
        if not len(self.artwork_id) == len(self.title_id) == len(self.features):
            sizes = f"{len(self.artwork_id)}, {len(self.title_id)} and {len(self.features)}"
            raise MalformedData(f"artwork_id, title_id and features have {sizes} rows.")
        if (np.diff(self.artwork_id) <= 0).any():
            raise MalformedData("artwork ids must rise, each once.")

    def __len__(self) -> int:
        return len(self.artwork_id)

    @classmethod
    def of(cls, artwork_id: Int64, title_id: Int64, features: Float32) -> ArtworkImages:
        """Images given in any order."""
        order = np.argsort(artwork_id, kind="stable")
        return cls(artwork_id[order], title_id[order], features[order])

    def rows(self, artwork_ids: Int64) -> Int64:
        """The row of each image.

        Raises:
            UnknownArtwork: some are not here.
        """
        rows = lookup(artwork_ids, self.artwork_id)
        if (rows < 0).any():
            raise UnknownArtwork(np.unique(artwork_ids[rows < 0]).tolist(), len(self))
        return rows

    @cached_property
    def title_rows(self) -> tuple[Int64, Int64]:
        """The titles (T,) ascending, and each image's row among them (A,)."""
        titles, row = np.unique(self.title_id, return_inverse=True)
        return titles, row.astype(np.int64)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each column, (F,): what was null, or never varied, becomes 0."""

    mean: Float64
    sd: Float64

    @classmethod
    def of(cls, values: Float32) -> Scale:
        """The scale of `values` (N, F), null left out."""
        known = ~np.isnan(values)
        n = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, values, 0).astype(np.float64)
        mean = filled.sum(axis=0) / n
        variance = np.where(known, (filled - mean) ** 2, 0).sum(axis=0) / n
        return cls(mean, np.sqrt(variance))

    def transform(self, values: Float32) -> Float32:
        """(…, F) float32 of mean 0 and standard deviation 1."""
        if values.shape[-1] != len(self.mean):
            raise MalformedData(f"{values.shape[-1]} columns given, {len(self.mean)} were trained on.")
        live = self.sd > 1e-9
        z = (values - self.mean) / np.where(live, self.sd, 1.0)
        return np.where(np.isnan(z) | ~live, 0.0, z).astype(np.float32)


def lookup(ids: Int64, ascending: Int64) -> Int64:
    """The place of each id in `ascending`, -1 where it is not there."""
    if len(ascending) == 0:
        return np.full(len(ids), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[place] == ids, place, -1).astype(np.int64)
