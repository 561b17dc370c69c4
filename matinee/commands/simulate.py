"""`matinee simulate`: the closed loop."""

from __future__ import annotations

from typing import Annotated

import typer

from matinee.session import AsJson, console, opened, print_json, staged


def simulate(
    days: Annotated[int | None, typer.Option(help="Days to live; instead of --weeks.")] = None,
    weeks: Annotated[int, typer.Option(help="Weeks to live.")] = 2,
) -> None:
    """Let the built-in world's members use the served page for days, and everything follow from it."""
    from matinee.simulation.config import SimulationConfig
    from matinee.simulation.loop import simulate as run

    with opened("world") as day, staged() as stages:
        made = run(day, SimulationConfig(days=days or 7 * weeks), stages, lambda lived: console.print(lived.traffic, lived.seconds))
    console.print(made.weights)
