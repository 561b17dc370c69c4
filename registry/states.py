"""The states of a run of an experiment, and how one follows another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from registry.errors import ExperimentState


class RunState(StrEnum):
    """Where a run of an experiment stands. `launched` and `killed` say what came of it, and are final."""

    DRAFT = "draft"
    RUNNING = "running"
    STOPPED = "stopped"
    LAUNCHED = "launched"
    KILLED = "killed"


Outcome = Literal[RunState.LAUNCHED, RunState.KILLED]
OPEN = (RunState.DRAFT, RunState.RUNNING)
"""While a run is in one of these, no other run may have its name."""
FOLLOWS: Mapping[RunState, tuple[RunState, ...]] = {
    RunState.DRAFT: (RunState.RUNNING, RunState.STOPPED),
    RunState.RUNNING: (RunState.STOPPED, RunState.LAUNCHED, RunState.KILLED),
    RunState.STOPPED: (RunState.LAUNCHED, RunState.KILLED),
    RunState.LAUNCHED: (),
    RunState.KILLED: (),
}
"""What may follow each state. The database refuses every other step too (revision 0008)."""


def require_step(name: str, now: RunState, to: RunState) -> None:
    """Refuse a step that `FOLLOWS` does not have.

    Raises:
        ExperimentState: saying where the experiment stands and what may follow.
    """
    if to in FOLLOWS[now]:
        return
    then = " or ".join(FOLLOWS[now])
    told = f"From there it can be {then}." if then else "That is final; record it again to run it again."
    raise ExperimentState(f"experiment {name!r} is {now}, so it cannot be {to}. {told}")
