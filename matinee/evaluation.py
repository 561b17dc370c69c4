"""What a model came to on one test, beside its peers: the value that is computed once and shown in several places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from models.uncertainty import Comparison, Estimate

Value = TypeVar("Value")
BySlice = Mapping[str, Mapping[str, Value]]
"""A value for every slice (`all`, `new users`) and measure (`ndcg_at_20`)."""


class Incomplete(ValueError):
    """An evaluation says something of a model, slice or measure of which it has no figure."""


def is_popularity(name: str) -> bool:
    """Whether a peer's name is that of popularity over all users, and not of a slice of them."""
    return re.fullmatch(r"popularity_(\d+d|ever)", name) is not None


@dataclass(frozen=True)
class Evaluation:
    """`ours` and its peers (`popularity_7d`, `ease`), judged on the same users of the period from `as_of` to `until`.

    `estimates` are means over users, by model, slice and measure. `of_all` are measures of all lists together, which
    no user has a value of, such as `coverage_at_20`. `comparisons` are ours minus a peer's, by that peer. `simulated`
    says that the users are of a simulated world.
    """

    source: str
    as_of: datetime
    until: datetime
    ours: str
    estimates: Mapping[str, BySlice[Estimate]]
    of_all: Mapping[str, BySlice[float]] = field(default_factory=dict)
    comparisons: Mapping[str, BySlice[Comparison]] = field(default_factory=dict)
    simulated: bool = False

    def __post_init__(self) -> None:
        if self.ours not in self.estimates:
            raise Incomplete(f"there are no estimates of {self.ours!r}, only of {', '.join(self.estimates)}.")
        if not self.as_of < self.until:
            raise Incomplete(f"the period from {self.as_of} to {self.until} holds no time.")
        for peer, of_peer in self.comparisons.items():
            if peer == self.ours or peer not in self.estimates:
                raise Incomplete(f"{peer!r} is no peer of {self.ours!r}: those are {', '.join(self.peers)}.")
            for part, measures in of_peer.items():
                for name in measures:
                    for model in (self.ours, peer):
                        self.estimate(model, part, name)

    @property
    def models(self) -> tuple[str, ...]:
        """Ours, then its peers."""
        return (self.ours, *self.peers)

    @property
    def peers(self) -> tuple[str, ...]:
        """The models that ours stands beside, in the order given."""
        return tuple(model for model in self.estimates if model != self.ours)

    @property
    def slices(self) -> tuple[str, ...]:
        """The slices that ours was judged on, in the order given."""
        return tuple(self.estimates[self.ours])

    def measures(self, part: str) -> tuple[str, ...]:
        """The measures that ours has an estimate of in a slice, in the order given."""
        return tuple(self.estimates[self.ours].get(part, {}))

    def estimate(self, model: str, part: str, measure: str) -> Estimate:
        """One estimate. Raises `Incomplete`."""
        try:
            return self.estimates[model][part][measure]
        except KeyError as missing:
            raise Incomplete(f"there is no estimate of {measure!r} of {model!r} in {part!r}.") from missing

    def to_dict(self) -> dict[str, Any]:
        """As it is written for programs."""
        return {
            "source": self.source,
            "as_of": self.as_of.isoformat(),
            "until": self.until.isoformat(),
            "ours": self.ours,
            "simulated": self.simulated,
            "estimates": _nested(self.estimates, vars),
            "of_all": _nested(self.of_all, float),
            "comparisons": _nested(self.comparisons, _comparison),
        }


def _comparison(found: Comparison) -> dict[str, Any]:
    return {"difference": vars(found.difference), "p_value": found.p_value}


def _nested(held: Mapping[str, BySlice[Any]], plain: Any) -> dict[str, Any]:
    return {
        model: {part: {name: plain(value) for name, value in of.items()} for part, of in parts.items()}
        for model, parts in held.items()
    }
