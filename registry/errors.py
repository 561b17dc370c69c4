"""Everything the ledger refuses, as types: each names the culprit and what would have worked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches


class RegistryError(Exception):
    """The root of every refusal of the ledger."""


class NewerLedger(RegistryError):
    """The schema of a ledger is one that this code does not know."""

    def __init__(self, found: str, newest: str) -> None:
        super().__init__(
            f"this ledger stands at migration {found}, and the newest that this matinee knows is {newest}: a newer matinee has "
            "written it. Use that one, or restore the ledger from before."
        )


class InvalidRecord(RegistryError, ValueError):
    """A value handed in cannot be recorded as it stands."""


class InvalidReference(RegistryError, ValueError):
    """A text that should name a model version does not."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r} names no model version. Write 'ranker/3', 'ranker@champion' or 'ranker'.")


class NotRecorded(RegistryError, LookupError):
    """Something was asked for that the ledger does not hold."""

    def __init__(self, kind: str, name: str, known: Collection[str] = ()) -> None:
        near = get_close_matches(name, known, n=1)
        if near:
            hint = f" Did you mean {near[0]!r}?"
        elif known:
            hint = f" It has: {', '.join(sorted(known)[:12])}{', …' if len(known) > 12 else ''}."
        else:
            hint = ""
        super().__init__(f"the ledger has no {kind} {name!r}.{hint}")
        self.kind, self.name = kind, name


class DefinitionConflict(RegistryError):
    """The same identity was recorded before with another content."""

    def __init__(self, kind: str, name: str, differs: Sequence[str]) -> None:
        super().__init__(
            f"{kind} {name!r} is already recorded and differs in {', '.join(differs)}. Records do not change: "
            "a changed definition needs a digest (or name) of its own."
        )


class AliasMoved(RegistryError):
    """A compare-and-set lost: the alias is not where the caller expected it to be."""

    def __init__(self, name: str, alias: str, expected: int | None, found: int | None) -> None:
        super().__init__(
            f"{name}@{alias} was expected at {_place(name, expected)} and is at {_place(name, found)}: "
            "somebody moved it first. Look at it again, then repeat with the new `expect`."
        )
        self.expected, self.found = expected, found


def _place(name: str, number: int | None) -> str:
    return "no version" if number is None else f"{name}/{number}"


class NoEvidence(RegistryError):
    """A protected alias may not move to this version yet."""

    def __init__(self, ref: str, alias: str, lacks: Sequence[str]) -> None:
        super().__init__(f"{ref} may not become {alias!r}: it lacks {'; '.join(lacks)}.")
        self.lacks = tuple(lacks)


class NothingToRollBack(RegistryError):
    """The alias has no earlier place in its history."""

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"{name}@{alias} has no earlier version to go back to.")


class StillReferenced(RegistryError):
    """Something cannot be deleted because other rows refer to it."""

    def __init__(self, ref: str, referrers: Sequence[str]) -> None:
        super().__init__(f"{ref} cannot be deleted; it is referred to by: {', '.join(referrers)}.")
        self.referrers = tuple(referrers)


class NameTaken(RegistryError):
    """Something is to be called as another of its kind is."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is a {kind} {name!r} already. Give this one a name of its own.")


class ExperimentState(RegistryError):
    """The experiment is not in a state that allows this step."""


class ArtifactRefused(RegistryError, ValueError):
    """The content or the name of a file is not one the store takes."""


class ArtifactCorrupt(RegistryError):
    """Stored bytes do not have the digest they are filed under."""

    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(
            f"artifact {sha256} is corrupt: its bytes now have the digest {found}. Nothing was read."
        )


class LedgerBusy(RegistryError):
    """The write lock of the ledger's database did not come free in time."""

    def __init__(self, holder: str, seconds: float) -> None:
        who = f"process {holder} is writing" if holder else "something else is writing"
        super().__init__(
            f"the ledger is locked: {who} to it, and has not finished within {seconds:g} s. Look at what it does "
            "(`matinee` or a database tool with an open transaction?), then try again."
        )
        self.holder = holder


class QuerySyntax(RegistryError, ValueError):
    """A search text that cannot be understood; shows where, and what would have been."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        super().__init__(f"{problem}\n  {text}\n  {' ' * position}^")
        self.position, self.problem = position, problem


class InvalidPageToken(RegistryError, ValueError):
    """A page token that this search did not hand out."""

    def __init__(self) -> None:
        super().__init__(
            "page_token does not belong to this query and order. Pass back `next_page_token` unchanged, "
            "with the same query and order_by, or none to start again."
        )
