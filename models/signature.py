"""The ordered inputs a model was trained on, and how live features differ from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Json = dict[str, object]


class SignatureMismatch(RuntimeError):
    """Live features are not those the model was trained on; `differences` says how."""

    def __init__(self, differences: tuple[str, ...]) -> None:
        self.differences = differences
        shown = "\n  ".join(differences[:20])
        more = f"\n  … and {len(differences) - 20} more" if len(differences) > 20 else ""
        super().__init__(
            f"live features differ from the model's in {len(differences)} ways:\n  {shown}{more}"
        )


@dataclass(frozen=True)
class Signature:
    """Feature names in the order of the model's columns, each with the digest of its declaration."""

    features: tuple[str, ...]
    digests: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.digests):
            raise ValueError(f"a signature of {len(self.features)} features has {len(self.digests)} digests.")
        if len(set(self.features)) != len(self.features):
            twice = sorted({name for name in self.features if self.features.count(name) > 1})
            raise ValueError(f"a signature names {', '.join(twice)} twice.")

    @property
    def width(self) -> int:
        """How many columns the model reads."""
        return len(self.features)

    def difference(self, live: Mapping[str, str]) -> tuple[str, ...]:
        """What is wrong with `live` (name → digest, in column order), one sentence each; () when nothing is.

        Features that are live and that the model does not read are fine, wherever they stand.
        """
        missing = tuple(f"{name}: missing" for name in self.features if name not in live)
        changed = tuple(
            f"{name}: trained on {digest}, live is {live[name]}"
            for name, digest in zip(self.features, self.digests, strict=True)
            if name in live and live[name] != digest
        )
        return missing + changed + self._order_difference(live)

    def _order_difference(self, live: Mapping[str, str]) -> tuple[str, ...]:
        mine = [name for name in self.features if name in live]
        wanted = set(mine)
        theirs = [name for name in live if name in wanted]
        for place, (trained, found) in enumerate(zip(mine, theirs, strict=True)):
            if trained != found:
                return (f"order: at place {place} the model reads {trained}, live has {found}",)
        return ()

    def check(self, live: Mapping[str, str]) -> None:
        """Raise `SignatureMismatch` unless `live` holds the model's features, unchanged and in order."""
        if differences := self.difference(live):
            raise SignatureMismatch(differences)

    def to_json(self) -> Json:
        """A value `from_json` turns back into this signature."""
        return {"features": list(self.features), "digests": list(self.digests)}

    @classmethod
    def from_json(cls, value: Mapping[str, list[str]]) -> Signature:
        """The signature that `to_json` wrote."""
        return cls(tuple(value["features"]), tuple(value["digests"]))
