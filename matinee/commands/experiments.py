"""`matinee experiments`: check, start, stop, list, read out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.reading import SHIPPED
from matinee.commands import programme
from matinee.context import present
from matinee.session import (
    AsJson,
    AsOf,
    Source,
    console,
    opened,
    print_json,
    print_pairs,
    print_table,
)
from registry import RunState

if TYPE_CHECKING:
    from experiments.estimates import Estimate

app = typer.Typer(
    no_args_is_help=True, help="Experiments: declared in YAML, pinned when started, read out with a verdict."
)

app.add_typer(programme.holdouts, name="hold-out")
app.command()(programme.overlap)
app.command()(programme.interactions)
app.command("back-test")(programme.back_test)

Folder = Annotated[Path, typer.Option(help="Folder of experiment YAML.")]


@app.command()
def check(
    folder: Folder = SHIPPED,
    source: Source = None,
    as_of: AsOf = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a folder of experiments, and whether each can find its effect; exit code 1 where something is wrong."""
    from matinee import experimenting
    from matinee.show import print_problems

    with opened(source, as_of) as day:
        found = experimenting.problems(day, folder)
    if as_json:
        print_json([vars(problem) for problem in found])
    else:
        print_problems(found, folder)
    counted = Counter(problem.severity for problem in found)
    if counted["error"] or (strict and counted["warning"]):
        raise typer.Exit(1)


@app.command()
def schema(folder: Folder = SHIPPED) -> None:
    """Write JSON Schemas of a folder's files beside them, which editors complete and check YAML by."""
    from experiments.reading import load
    from experiments.schemas import write_schemas

    for path in write_schemas(load(folder), folder):
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def start(
    name: str, folder: Folder = SHIPPED, source: Source = None, as_of: AsOf = None, by: str = "cli"
) -> None:
    """Pin the model versions of an experiment's arms and make it live, from now or a simulated moment on."""
    from matinee import experimenting

    with opened(source) as day:
        live = experimenting.start_experiment(day, name, as_of or present(day), by, folder)
    for arm in live.named(name).arms:
        console.print(f"{name}/{arm.name}: {dict(arm.parameters)}", highlight=False)


@app.command()
def stop(name: str, source: Source = None, by: str = "cli", reason: str = "") -> None:
    """Take an experiment out of service; its read-outs stay in the ledger."""
    from matinee import experimenting

    with opened(source) as day:
        experimenting.stop_experiment(day, name, by, reason)
    console.print(f"{name} is stopped", highlight=False)


@app.command("list")
def list_(
    source: Source = None,
    state: Annotated[RunState | None, typer.Option(help="Only runs that stand here now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every run of every experiment with its state and its arms."""
    with opened(source) as day:
        runs = day.registry.experiments(state=state)
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    rows = [
        [run.name, run.layer, run.state.value, f"{run.history[-1].at:%Y-%m-%d %H:%M}", ", ".join(arm.name for arm in run.arms), run.digest[:12]]
        for run in runs
    ]  # fmt: skip
    print_table("experiments", ("experiment", "layer", "state", "since", "arms", "digest"), rows)


@app.command()
def show(name: str, source: Source = None, as_json: AsJson = False) -> None:
    """Every run of an experiment: what its arms set, each change of its state and why, and what was read out."""
    from matinee import experimenting

    with opened(source) as day:
        readouts = day.registry.readouts(name)
        runs = day.registry.experiments([name])
    if as_json:
        print_json({"runs": [asdict(run) for run in runs], "readouts": [asdict(one) for one in readouts]})
        return
    for number, run in enumerate(runs, 1):
        sets = [f"{arm.name} {experimenting.pinned(run, arm.name)}" for arm in run.arms]
        print_pairs(
            {
                "run": f"{number} of {len(runs)}",
                "state": run.state.value,
                "layer": run.layer,
                "arms": "; ".join(sets),
            }
        )
        steps = [
            [change.state.value, f"{change.at:%Y-%m-%d %H:%M}", change.by, change.reason]
            for change in run.history
        ]
        print_table("", ("state", "since", "by", "reason"), steps)
    said = [
        [one.id, f"{one.created_at:%Y-%m-%d %H:%M}", str(one.verdict.get("sentence", ""))] for one in readouts
    ]
    print_table("read-outs", ("read-out", "recorded", "sentence"), said)


@app.command()
def readout(
    name: str,
    source: Source = None,
    as_of: AsOf = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of HTML with figures here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the same as Markdown here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Health first, then the primary metric and the guardrails, then a verdict in a sentence."""
    from matinee import experimenting, readout_page
    from matinee.show import print_readout

    with opened(source) as day:
        made = experimenting.readout(day, name, as_of or present(day))
        simulated = day.workspace.source.name == "world"
    if html is not None:
        html.write_bytes(readout_page.page(made, simulated=simulated))
    if markdown is not None:
        markdown.write_text(readout_page.markdown(made, simulated=simulated), encoding="utf-8")
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_readout(made)


@app.command()
def watch(
    name: str, source: Source = None, as_of: AsOf = None, by: str = "watch", as_json: AsJson = False
) -> None:
    """Look at the guardrails, as often as you like; roll back and exit with code 2 where one is surely worse."""
    from matinee import experimenting

    with opened(source) as day:
        seen = experimenting.watch_experiment(day, name, as_of or present(day), by)
    if as_json:
        print_json(seen.model_dump(mode="json"))
    else:
        rows = [[w.treatment, w.guardrail, w.state, _interval(w.estimate)] for w in seen.guardrails]
        print_table(name, ("treatment", "guardrail", "state", "change, holding at all times"), rows)
        console.print(seen.sentence, highlight=False)
    if seen.roll_back:
        raise typer.Exit(2)


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.difference:+.4g} ({estimate.low:+.4g} to {estimate.high:+.4g})"


@app.command()
def ship(name: str, source: Source = None, by: str = "cli") -> None:
    """Give everyone what the winning arm of the newest read-out sets; an experiment that runs or has stopped is launched by that."""
    from matinee import experimenting

    with opened(source) as day:
        last = experimenting.ship(day, name, by)
    console.print(f"launched {last.winner}: {last.sentence}", highlight=False)


@app.command("roll-back")
def roll_back(name: str, reason: str, source: Source = None, by: str = "cli") -> None:
    """Kill an experiment that runs or has stopped, for a reason that the ledger keeps; who was in it is served as before."""
    from matinee import experimenting

    with opened(source) as day:
        experimenting.conclude_experiment(day, name, RunState.KILLED, by, reason)
    console.print(f"{name} is rolled back", highlight=False)


@app.command()
def scope(
    name: str,
    hypothesis: Annotated[str, typer.Option(help="What you expect, in a sentence.")],
    primary: Annotated[str, typer.Option(help="The metric that decides, by name in metrics.yaml.")],
    guardrail: Annotated[list[str], typer.Option(help="NAME, or NAME=MARGIN, once for each guardrail.")],
    effect: Annotated[float, typer.Option(help="Relative effect worth finding, 0.02 for 2 %.")],
    layer: Annotated[str, typer.Option(help="Whose parameters the treatment sets.")] = "ranking",
    sets: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of the treatment.")] = None,
    traffic: Annotated[float, typer.Option(help="Share of members that take part.")] = 1.0,
    power: Annotated[float, typer.Option(help="Of the decision, guardrails included.")] = 0.8,
    looks: Annotated[int, typer.Option(min=1, help="How often it will be read out.")] = 4,
    owner: str = "cli",
    folder: Folder = SHIPPED,
    write: Annotated[bool, typer.Option(help="Write NAME.yaml into the folder.")] = False,
    source: Source = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Sample size, duration and detectable effects from the project's own past, and a YAML draft."""
    from experiments.schemas import modeline
    from experiments.scoping import Draft
    from matinee.scoping import scope_experiment

    draft = Draft(
        name=name, hypothesis=hypothesis, owner=owner, layer=layer, primary=primary, effect=effect, power=power,
        guardrails=dict(_margin(text) for text in guardrail), parameters=dict(_setting(text) for text in sets or ()),
        traffic=traffic, looks=looks,
    )  # fmt: skip
    with opened(source, as_of) as day:
        made = scope_experiment(day, draft, folder)
    if write:
        (folder / f"{name}.yaml").write_text(modeline(folder) + made.yaml, encoding="utf-8")
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    rows = [
        [n.metric, n.role, n.baseline.level, n.effect, n.units, n.detectable, _share(n.baseline.variance_cut)]
        for n in made.plan.needs
    ]
    print_table(
        name, ("metric", "role", "level", "effect or margin", "units needed", "detectable", "CUPED"), rows
    )
    console.print(made.sentence, highlight=False)
    console.print(
        f"Were each metric planned alone at {power:.0%}, the decision's power would be {made.plan.unsplit_power:.0%}.",
        highlight=False,
    )
    console.print(made.yaml, highlight=False, markup=False)


def _share(value: float | None) -> str:
    return "" if value is None else f"-{value:.0%}"


def _margin(text: str) -> tuple[str, float | None]:
    name, _, margin = text.partition("=")
    try:
        return name, float(margin) if margin else None
    except ValueError:
        raise typer.BadParameter(
            f"guardrail {text!r}: write NAME, or NAME=MARGIN such as plays_7d=0.02."
        ) from None


def _setting(text: str) -> tuple[str, str | float]:
    name, _, value = text.partition("=")
    if not value:
        raise typer.BadParameter(f"setting {text!r}: write PARAMETER=VALUE such as weights.diversity=0.3.")
    try:
        return name, float(value)
    except ValueError:
        return name, value
