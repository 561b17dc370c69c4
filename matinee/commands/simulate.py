"""`matinee simulate`: the closed loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from matinee.session import AsJson, console, opened, print_json, print_pairs, print_table, staged
from matinee.settings import Settings


def simulate(
    weeks: Annotated[int, typer.Option(min=1, help="Weeks to live.")] = 2,
    days: Annotated[int | None, typer.Option(min=1, help="Days to live, in place of weeks.")] = None,
    members: Annotated[int | None, typer.Option(min=10, help="Members of a world of its own; else this workspace goes on.")] = None,
    titles: Annotated[int | None, typer.Option(min=200, help="Titles of a world of its own.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of a world of its own: equal seeds, equal runs.")] = None,
    scenario: Annotated[list[str] | None, typer.Option(help="What to ask: alluring, variety, weights, new-titles, funnel, holdout, or all.")] = None,
    holdout: Annotated[float, typer.Option(min=0, max=0.45, help="Share of members for whom nothing changes, and as many who only see what was launched.")] = 0.0,
    ideas: Annotated[int, typer.Option(min=1, help="Random changes that the funnel tries.")] = 100,
    size: Annotated[float, typer.Option(min=0.01, help="Members of tests on many lives, 1 being 30,000 an arm.")] = 1.0,
    retrain_every: Annotated[int, typer.Option(min=0, help="Days between trainings of retriever and ranker; 0 is never.")] = 7,
    refresh_every: Annotated[int, typer.Option(min=1, max=7, help="Days between computations of the features.")] = 1,
    http: Annotated[bool, typer.Option("--http", help="Pages from the served Bento over HTTP.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Simulated members use the served page day after day; events, features, models and experiments follow."""
    from matinee.simulation.config import SimulationConfig
    from matinee.simulation.report import as_json as told
    from matinee.simulation.studies import Scenario, Study

    live = 7 * weeks if days is None else days
    asked = [one for one in Scenario if scenario and ("all" in scenario or one in scenario)]
    if unknown := [name for name in scenario or () if name != "all" and name not in set(Scenario)]:
        raise typer.BadParameter(f"no scenario {', '.join(unknown)}. There are: {', '.join(Scenario)}, all.")
    config = SimulationConfig(retrain_every=retrain_every, refresh_every=refresh_every)
    settings = _settings(members, titles, seed, live)
    with opened("world", settings=settings) as day, staged(quiet=as_json) as stages:
        study = Study(day, stages, asked, live, holdout, http, size, ideas, config)
        found, page = study.run()
    if as_json:
        print_json({**told(found), "page": str(page)})
    else:
        _print(told(found), page)


def _settings(members: int | None, titles: int | None, seed: int | None, days: int) -> Settings | None:
    """Settings of a workspace of its own, in a folder named after what it is; None goes on in the one that is set."""
    if members is None and titles is None and seed is None:
        return None
    plain = Settings(source="world")
    changes = dict(plain.world_settings)
    changes |= {"later_days": days + 7}
    changes |= {
        name: value for name, value in (("n_members", members), ("n_titles", titles)) if value is not None
    }
    number = plain.seed if seed is None else seed
    name = f"simulation-{changes.get('n_members', plain.world)}-{changes.get('n_titles', plain.world)}-{days}-{number}"
    return plain.model_copy(
        update={"workspaces": plain.workspaces / name, "seed": number, "world_settings": changes}
    )


def _print(told: dict[str, Any], page: Path) -> None:
    rows = [
        [f"{day['day']}", day["sessions"], day["plays"], round(day["minutes"]), day["satisfaction"], day["diversity"], day["renewed"], day["cancelled"]]
        for day in told["days"]
    ]  # fmt: skip
    print_table(
        "simulated days",
        ("day", "pages", "plays", "minutes", "satisfaction", "diversity", "renewed", "cancelled"),
        rows,
    )
    ended = [[e["experiment"], "in the loop", e["outcome"], e["sentence"]] for e in told["trials"]]
    ended += [[name, "many lives", one["outcome"], one["sentence"]] for name, one in told["tested"].items()]
    if told["search"]:
        ended.append(
            [
                "searched weights",
                "many lives",
                told["search"]["confirmed"]["outcome"],
                told["search"]["confirmed"]["sentence"],
            ]
        )
    if told["holdout"]:
        ended.append(
            [
                "hold-out",
                "in the loop",
                "broken" if told["holdout"]["broken"] else "read",
                told["holdout"]["sentence"],
            ]
        )
    if ended:
        print_table("experiments, simulated", ("experiment", "on", "outcome", "read-out"), ended)
    facts: dict[str, object] = {}
    if told["new_titles"] and told["new_titles"]["saved"]:
        saved = told["new_titles"]["saved"]
        weeks = saved["uninformed_weeks"] - saved["informed_weeks"]
        facts["weeks saved on new titles"] = f"{weeks:.2f} ({saved['impressions']:.0f} impressions a title)"
    if told["funnel"]["outcomes"]:
        facts["ideas"] = ", ".join(f"{n} {name}" for name, n in told["funnel"]["outcomes"].items())
    print_pairs({**facts, **told["notes"], "report (SIMULATED)": str(page)})
    console.print()
