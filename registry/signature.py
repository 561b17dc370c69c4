"""A model's signature: what goes in, what comes out, and what it was made with.

An input is not a copy of a list of features: it names the feature service that the list is, and the ledger holds that
service with every feature's digest, type and place. So what a model reads is an edge of the chain, not a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.canonical import JSON, check_text
from registry.errors import InvalidRecord

FLOAT32 = "float32"


@dataclass(frozen=True)
class Input:
    """A matrix that a model takes: one column for each feature of `service` (a digest), in its order, of `dtype`."""

    name: str
    service: str
    dtype: str = FLOAT32

    def __post_init__(self) -> None:
        for part in ("name", "service", "dtype"):
            _check_word(f"an input's {part}", getattr(self, part))


@dataclass(frozen=True)
class Output:
    """An array that a model gives back; None in its `shape` stands for as many as were asked about.

    >>> Output("play", shape=(None,), meaning="probability that the title is played").dtype
    'float32'
    """

    name: str
    dtype: str = FLOAT32
    shape: tuple[int | None, ...] = (None,)
    meaning: str = ""

    def __post_init__(self) -> None:
        _check_word("an output's name", self.name)
        _check_word("an output's dtype", self.dtype)
        check_text("an output's meaning", self.meaning)
        object.__setattr__(self, "shape", tuple(self.shape))
        if any(size is not None and size < 1 for size in self.shape):
            raise InvalidRecord(
                f"output {self.name!r} has shape {self.shape}: sizes are at least 1, or None."
            )


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in order, and the libraries (name → version) that the model was made with."""

    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    framework: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ("inputs", "outputs"):
            object.__setattr__(self, kind, tuple(getattr(self, kind)))
            names = [one.name for one in getattr(self, kind)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise InvalidRecord(f"a signature has {', '.join(map(repr, twice))} twice among its {kind}.")
        for library, version in self.framework.items():
            _check_word("a library's name", library)
            _check_word(f"the version of {library}", version)

    @property
    def services(self) -> tuple[str, ...]:
        """The digests of the services its inputs are, each once, in order."""
        return tuple(dict.fromkeys(given.service for given in self.inputs))

    def described(self) -> dict[str, JSON]:
        """What is kept as JSON beside the version; the inputs are rows of their own."""
        outputs = [{**vars(output), "shape": list(output.shape)} for output in self.outputs]
        return {"outputs": outputs, "framework": dict(self.framework)}

    @classmethod
    def of(cls, inputs: tuple[Input, ...], described: Mapping[str, Any]) -> Signature:
        """The signature that `described` was made of, with its inputs.

        Versions from before signatures had outputs have none.
        """
        outputs = tuple(
            Output(**{**output, "shape": tuple(output["shape"])}) for output in described.get("outputs", ())
        )
        return cls(inputs, outputs, described.get("framework", {}))


@dataclass(frozen=True)
class Column:
    """One column of an input: a feature as it was declared when the model was trained."""

    view: str
    name: str
    digest: str
    dtype: str

    @property
    def reference(self) -> str:
        """How people name it: `user_activity:watch_minutes_sum_28d`."""
        return f"{self.view}:{self.name}"


def _check_word(kind: str, text: str) -> None:
    if not isinstance(text, str) or not 1 <= len(check_text(kind, text)) <= 250:
        raise InvalidRecord(f"{kind} is {text!r}; it needs 1 to 250 characters.")
