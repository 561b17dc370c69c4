"""How people write a model version: `ranker/3`, `ranker@champion`, or `ranker` for its newest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import InvalidRecord, InvalidReference

_NAME = re.compile(r"(?! )[^/@:\x00-\x1f\ud800-\udfff`'\"]{1,200}(?<! )")
_REF = re.compile(r"(?P<name>[^/@]+)(?:/(?P<number>[1-9][0-9]{0,8})|@(?P<alias>[^/@]+))?")


@dataclass(frozen=True)
class Ref:
    """A model and at most one of a version number and an alias; neither means the newest version."""

    name: str
    number: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.name}/{self.number}"
        return self.name if self.alias is None else f"{self.name}@{self.alias}"


def parse_ref(text: str) -> Ref:
    """Read a reference.

    >>> parse_ref("ranker@champion")
    Ref(name='ranker', number=None, alias='champion')
    """
    if not (match := _REF.fullmatch(text)) or not _NAME.fullmatch(match["name"]):
        raise InvalidReference(text)
    if match["alias"] is not None and not _NAME.fullmatch(match["alias"]):
        raise InvalidReference(text)
    return Ref(match["name"], int(match["number"]) if match["number"] else None, match["alias"])


def check_name(kind: str, name: str) -> str:
    """`name`, if it can stand in a reference.

    Raises:
        InvalidRecord: it is empty, longer than 200, spaced at an end, or holds a quote, `/`, `@` or `:`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRecord(
            f"{kind} {name!r} cannot be a name: 1 to 200 characters, no quotes, '/', '@' or ':', no space at an end."
        )
    return name
