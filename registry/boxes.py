"""What is drawn of a lineage, whoever draws it: boxes, the arrows between them, and the folding of very many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

MOST_BOXES = 24
"""Boxes of one kind that are drawn one by one; live ones and those asked about do not count."""
MOST_ARROWS = 400
"""Arrows in one drawing. Mermaid draws none that has more than 500 (its `maxEdges`), and nobody reads one."""


class Kind(StrEnum):
    """What a box stands for, as a heading; in the order of the chain."""

    EVENTS = "raw events"
    FEATURES = "features"
    SERVICES = "feature services"
    TRAINING_SETS = "training sets"
    VERSIONS = "model versions"
    BENTOS = "Bentos"
    ARMS = "arms"
    READOUTS = "read-outs"


@dataclass(frozen=True)
class Box:
    """One thing in a drawing, or `count` things of one kind that share a box.

    `name` tells boxes apart and `label` is for people; `before` names the boxes an arrow comes from. A `live` box
    is in use now, one that is `asked` is what the question was about. `family` is what the box is one of many of,
    such as the model of a version.
    """

    name: str
    kind: Kind
    label: str
    before: tuple[str, ...] = ()
    live: bool = False
    asked: bool = False
    family: str = ""
    count: int = 1


def united(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Each name once, with the arrows of all boxes that had it; arrows from what is not there are left out."""
    known: dict[str, Box] = {}
    for box in boxes:
        first = known.get(box.name)
        known[box.name] = box if first is None else replace(first, before=first.before + box.before)
    return tuple(
        _after(box, dict.fromkeys(name for name in box.before if name in known)) for box in known.values()
    )


def _after(box: Box, before: Iterable[str]) -> Box:
    """The box with arrows from these; the same object where it has them already, as most have."""
    names = tuple(before)
    return box if names == box.before else replace(box, before=names)


def arrows(boxes: Iterable[Box]) -> tuple[tuple[str, str], ...]:
    """(name of the box before, name of the box behind) of every arrow."""
    return tuple((origin, box.name) for box in boxes for origin in box.before)


def drawable(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes, each name once, folded as little as leaves at most `MOST_BOXES` of a kind and `MOST_ARROWS` arrows.

    What is live, or was asked about, is never folded: where that alone is more, more is drawn.
    """
    most = MOST_BOXES
    shown = folded(boxes, most)
    while most > 1 and len(arrows(shown)) > MOST_ARROWS:
        most //= 2
        shown = folded(boxes, most)
    return shown


def folded(boxes: Sequence[Box], most: int) -> tuple[Box, ...]:
    """At most `most` boxes of each kind, and one more that says how many others there are.

    What is live or was asked about stays, beside those `most`. Of the others the newest of each family stay, which
    are its last; a single box is never folded.
    """
    kinds = {box.name: box.kind for box in boxes}
    home: dict[str, str] = {}  # the name of a folded box: the one that stands for it
    rest: list[Box] = []
    for kind in Kind:
        others = [box for box in boxes if box.kind is kind and not (box.live or box.asked)]
        if len(others) > most + 1:
            older = _newest_first(others)[most:]
            rest.append(_one_for(older))
            home |= dict.fromkeys((box.name for box in older), rest[-1].name)
    kept = [box for box in boxes if box.name not in home]
    ends = {*home, *(box.name for box in rest)}

    def lasts(origin: str, box: Box) -> bool:
        """Among things of one kind, a box that stands for many would be before and behind the same other."""
        return kinds.get(origin) is not box.kind or not ends & {origin, box.name}

    return united(
        _after(box, (home.get(name, name) for name in box.before if lasts(name, box)))
        for box in [*kept, *rest]
    )


def _newest_first(boxes: Sequence[Box]) -> list[Box]:
    """The last of every family, then the last but one of every family, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for place, box in enumerate(reversed(boxes)):
        ranked.append((seen[box.family], place, box))
        seen[box.family] += 1
    return [box for *_, box in sorted(ranked, key=lambda entry: entry[:2])]


def _one_for(boxes: Sequence[Box]) -> Box:
    """The box that stands for all of these, which are of one kind."""
    kind, families, count = boxes[0].kind, {box.family for box in boxes}, sum(box.count for box in boxes)
    family = f"{boxes[0].family}: " if len(families) == 1 and boxes[0].family else ""
    before = tuple(dict.fromkeys(origin for box in boxes for origin in box.before))
    return Box(f"more {kind}", kind, f"{family}{count:,} more {kind}", before, count=count)


def shortened(label: str, most: int) -> str:
    """A label of at most `most` letters: what is too long loses its middle, for ends tell names apart.

    >>> shortened("watch_minutes_of_evenings_sum_28d", 20)
    'watch_minu…s_sum_28d'
    """
    if len(label) <= most:
        return label
    tail = (most - 1) // 2
    return f"{label[: most - 1 - tail]}…{label[len(label) - tail :]}"
