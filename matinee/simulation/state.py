"""What a simulation keeps from day to day, so that the next run goes on where the last one ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

import numpy as np

from events.audience import Audience
from events.history import audience_after
from events.subscriptions import Subscriptions
from events.world import World

_PARTS = tuple(part.name for part in fields(Subscriptions))


class Interrupted(RuntimeError):
    """A simulated day was begun and not finished: its events may be half there."""

    def __init__(self, folder: Path, day: str) -> None:
        super().__init__(
            f"a simulation was interrupted while it lived {day}: pages of that day were logged, and its events may be half there. "
            f"Start again from a workspace of before (remove the one that holds {folder})."
        )


@dataclass(frozen=True)
class Simulated:
    """How far a workspace was simulated.

    `at` is the first moment not lived yet, `began` the first that was.
    """

    began: datetime
    at: datetime
    audience: Audience


def begin(world: World) -> Simulated:
    """Where the history ends."""
    return Simulated(world.config.end, world.config.end, audience_after(world))


def resume(folder: Path, world: World) -> Simulated:
    """What the last run in `folder` left, or the history's end where there was none.

    Raises:
        Interrupted: the last run was killed in the middle of a day.
    """
    if (mark := folder / "living").exists():
        raise Interrupted(folder, mark.read_text())
    if not (folder / "state.json").exists():
        return begin(world)
    told = json.loads((folder / "state.json").read_text())
    with np.load(folder / told["audience"]) as parts:
        audience = Audience(Subscriptions(*(parts[name] for name in _PARTS)), parts["watched"])
    return Simulated(datetime.fromisoformat(told["began"]), datetime.fromisoformat(told["at"]), audience)


def begin_day(folder: Path, at: datetime) -> None:
    """Leave a mark that a day is being lived; `keep` takes it away."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "living").write_text(f"{at:%Y-%m-%d}")


def keep(folder: Path, state: Simulated) -> None:
    """Write the state; the JSON comes last, in one step, so that a reader sees the old state or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"audience-{state.at:%Y%m%d}.npz"
    parts = {part: getattr(state.audience.subscriptions, part) for part in _PARTS}
    np.savez_compressed(folder / name, **parts, watched=state.audience.watched)
    told = {"began": state.began.isoformat(), "at": state.at.isoformat(), "audience": name}
    draft = folder / "state.json.partial"
    draft.write_text(json.dumps(told, indent=1) + "\n")
    draft.replace(folder / "state.json")
    (folder / "living").unlink(missing_ok=True)
    for old in folder.glob("audience-*.npz"):
        if old.name != name:
            old.unlink()
