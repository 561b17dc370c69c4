"""`matinee experiments hold-out …`, `overlap`, `interactions`, `back-test`: all experiments together."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from experiments.reading import SHIPPED
from matinee.session import AsJson, AsOf, Source, console, opened, print_json, print_table

Folder = Annotated[Path, typer.Option(help="Folder of experiment YAML.")]
holdouts = typer.Typer(
    no_args_is_help=True, help="Units set apart for a quarter, to measure all launches at once."
)


def overlap(
    folder: Folder = SHIPPED,
    as_of: AsOf = None,
    top: int = 20,
    figure: Annotated[Path | None, typer.Option(help="Draw the whole matrix here, as SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """The share of members that any two declared experiments have in common, largest first."""
    from matinee import programme

    found = programme.declared_overlap(folder, as_of or datetime.now(UTC))
    if figure is not None:
        from matinee.overlap_figure import overlap_matrix

        figure.write_bytes(overlap_matrix(found))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    pairs = found.meeting()
    print_table(f"{len(pairs):,} pairs can meet", ("first", "second", "share of members"), pairs[:top])


def interactions(
    metric: str, folder: Folder = SHIPPED, as_of: AsOf = None, source: Source = None, as_json: AsJson = False
) -> None:
    """Who met whom among live experiments, and whether effects on a metric add up; says what it would have missed."""
    from matinee import programme

    with opened(source) as day:
        met, scan = programme.scan(day, metric, as_of or datetime.now(UTC), folder)
    if as_json:
        print_json({"meetings": [m.model_dump() for m in met], "scan": scan.model_dump(exclude={"p_values"})})
        return
    for one in met:
        console.print(
            f"[red]{one.first} and {one.second} met {one.observed:,} times where {one.expected:,.0f} were due[/red] "
            f"(adjusted p {one.p_adjusted:.2g}): assignment or logging is at fault", highlight=False,
        )  # fmt: skip
    rows = [
        [f"{i.first}/{i.first_arm}", f"{i.second}/{i.second_arm}", i.estimate, i.standard_error, i.p_adjusted]
        for i in scan.found
    ]
    print_table(f"{len(rows)} of {scan.pairs - scan.unread:,} pairs interact in {metric}; {scan.unread:,} have too few units",
                ("first", "second", "interaction", "standard error", "adjusted p"), rows)  # fmt: skip
    if scan.detectable is not None:
        console.print(
            f"An interaction below {scan.detectable:.4g} would likely have been missed.", highlight=False
        )


def back_test(source: Source = None, as_json: AsJson = False) -> None:
    """What stricter and laxer rules would have shipped of all stored read-outs, and what that is worth."""
    from experiments.decision import DecisionRule
    from matinee import programme

    rules = {
        "as it is": DecisionRule(),
        "strict (alpha .01)": DecisionRule(alpha=0.01),
        "lax (alpha .2)": DecisionRule(alpha=0.2),
        "lax on guardrails (alpha .2)": DecisionRule(alpha_guardrail=0.2),
        "no stop for deterioration": DecisionRule(alpha_deterioration=1e-12),
    }
    with opened(source) as day:
        results = programme.compare_rules(day, rules)
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
        return
    rows = [
        [r.name, len(r.shipped), r.stopped, f"{r.naive_return:+.2%}", f"{r.expected_return:+.2%}"]
        for r in results
    ]
    print_table(
        "decision rules over stored read-outs",
        ("rule", "shipped", "stopped", "as read", "to be expected"),
        rows,
    )


@holdouts.command("start")
def start_holdout(name: str, folder: Folder = SHIPPED, as_of: AsOf = None, source: Source = None) -> None:
    """Set units apart from now on: held out, winners only, everyone."""
    from matinee import programme

    with opened(source) as day:
        programme.start_holdout(day, name, as_of or datetime.now(UTC), folder)
    console.print(f"{name} holds units out", highlight=False)


@holdouts.command("plan")
def plan_holdout(
    name: str,
    metric: Annotated[list[str], typer.Option(help="A metric by name.")],
    folder: Folder = SHIPPED,
    source: Source = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """What a hold-out could tell, before it begins: the relative effect that is found 80 % of the time."""
    from matinee import programme

    with opened(source, as_of) as day:
        found = programme.plan_holdout(day, name, metric, folder)
    if as_json:
        print_json(found)
        return
    print_table(name, ("metric", "detectable"), [[metric, f"{value:.2%}"] for metric, value in found.items()])


@holdouts.command("end")
def end_holdout(source: Source = None) -> None:
    """Let everyone in again."""
    from matinee import programme

    with opened(source) as day:
        ended = programme.end_holdout(day)
    console.print(f"{ended.name} is over", highlight=False)


@holdouts.command("readout")
def readout_holdout(
    name: str,
    metric: Annotated[
        list[str], typer.Option(help="A metric by name; the first is that of the sum of wins.")
    ],
    folder: Folder = SHIPPED,
    as_of: AsOf = None,
    source: Source = None,
    as_json: AsJson = False,
) -> None:
    """All launches together, and beside it the launched tests' effects added up and shrunk."""
    from matinee import programme

    with opened(source) as day:
        made = programme.holdout_readout(day, name, metric, as_of or datetime.now(UTC), folder)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    console.print(made.sentence, highlight=False)
    for effect in made.effects:
        if effect.detectable is not None:
            console.print(
                f"{effect.metric}: {effect.detectable:.2%} is found 80 % of the time at this size",
                highlight=False,
            )
