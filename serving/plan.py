"""What one user's page is made with: the arms they are in, and the versions and weights those ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from experiments.config import JSON
from models.objective import ObjectiveWeights
from serving.answers import ShownArm, Versions
from serving.manifest import Defaults, Kind

Draw = Literal["thompson", "uniform", "editorial"]
"""How an image is drawn from what the artwork model knows."""

_WEIGHT = "weights."
_VERSIONS = tuple(Versions.model_fields)
_DRAW = "artwork_policy"


class UnreadableParameter(ValueError):
    """A live arm sets something that the page does not read, or to a value it cannot read."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"a live arm sets {name!r} to {value!r}. The page reads {allowed}.")


@dataclass(frozen=True)
class Setting:
    """What parameters come to: versions and weights in force."""

    versions: Versions
    weights: ObjectiveWeights
    artwork_policy: Draw = "thompson"


@dataclass(frozen=True)
class Plan:
    """Resolved: nothing in it moves while the page is made. `canary` are the kinds of model served as a canary."""

    arms: tuple[ShownArm, ...]
    versions: Versions
    weights: ObjectiveWeights
    artwork_policy: Draw = "thompson"
    canary: tuple[Kind, ...] = ()


def setting_of(parameters: Mapping[str, JSON], defaults: Defaults) -> Setting:
    """What arms set; where they are silent, what `defaults` do.

    Raises:
        UnreadableParameter: an arm sets a parameter or a value that no page can follow.
    """
    versions: dict[str, str] = dict(defaults.refs().items())
    weights = defaults.weights.model_dump()
    artwork_policy: Draw = "thompson"
    for name, value in parameters.items():
        if name in _VERSIONS:
            versions[name] = str(value)
        elif name.removeprefix(_WEIGHT) in weights and name.startswith(_WEIGHT):
            weights[name.removeprefix(_WEIGHT)] = value
        elif name == _DRAW and value in get_args(Draw):
            artwork_policy = cast("Draw", value)
        else:
            known = (
                *_VERSIONS,
                *(_WEIGHT + weight for weight in weights),
                f"{_DRAW} ({', '.join(get_args(Draw))})",
            )
            raise UnreadableParameter(name, value, ", ".join(known))
    return Setting(Versions(**versions), ObjectiveWeights.model_validate(weights), artwork_policy)
