"""What people are shown: a page, a read-out, a lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.tree import Tree

from matinee.session import console, errors, print_pairs, print_table

if TYPE_CHECKING:  # a lineage can be shown without torch, a page without tea-tasting
    from experiments.config import Problem
    from experiments.estimates import Estimate
    from experiments.readout import Readout
    from matinee.checking import Fit
    from matinee.evaluation import Evaluation
    from matinee.recommending import Timings
    from matinee.reproducing import Reproduction
    from registry import FsckReport
    from registry.lineage import Lineage, VersionNode
    from serving.answers import Page, ShownTitle
    from serving.explaining import Explanation


def print_page(page: Page, rows: int | None = None) -> None:
    """One user's page: titles with artwork and score parts, arm and model versions."""
    print_pairs({
        "user": page.user_id,
        "source": page.source + "".join(f", without {d.stage}: {d.reason}" for d in page.degraded),
        "as of": f"{page.as_of:%Y-%m-%d %H:%M} UTC, generation {page.generation}",
        "arms": ", ".join(f"{a.experiment} → {a.arm}" for a in page.arms) or "in no experiment",
        "versions": ", ".join(ref for ref in page.versions.model_dump().values() if ref),
        "weights": ", ".join(f"{name} {value:g}" for name, value in page.weights.items()),
    })  # fmt: skip
    columns = (
        "#",
        "title",
        "genres",
        "image",
        "p",
        "retr.",
        "play",
        "compl.",
        "ret.",
        "choice",
        "obj.",
        "div.",
    )
    print_table("page", columns, [_title_row(title) for title in page.titles[:rows]])
    console.print(
        "[dim]p: propensity of the image; retr.: retrieval score; play, compl., ret., choice: heads; obj.: what the page "
        "is ranked by; div.: taken off for likeness to titles above[/dim]"
    )


def _title_row(title: ShownTitle) -> Sequence[object]:
    s = title.scores
    name = title.name if title.year is None else f"{title.name} ({title.year})"
    image = "" if title.artwork_id is None else str(title.artwork_id)
    scores = (s.retrieval, s.play, s.completion, s.retention, s.choice, s.objective, s.diversity_penalty)
    place, genres = str(title.position + 1), ", ".join(title.genres[:2])
    return (place, name, genres, image, _number(title.propensity), *(_number(value) for value in scores))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value + 0.0:.2f}"


def print_explanation(told: Explanation) -> None:
    """A page with its reasons: what each head added to a title's objective, and the features that brought most."""
    print_pairs({
        "user": told.user_id,
        "source": told.source + "".join(f", without {d.stage}: {d.reason}" for d in told.degraded),
        "arms": ", ".join(f"{a.experiment} → {a.arm}" for a in told.arms) or "in no experiment",
        "versions": ", ".join(ref for ref in told.versions.model_dump().values() if ref),
        "weights": ", ".join(f"{name} {value:g}" for name, value in told.weights.items()),
        "an average title": "not ranked" if told.baseline is None else f"has an objective of {told.baseline:.3f}",
    })  # fmt: skip
    for title in told.titles:
        s = title.scores
        parts = ", ".join(f"{head} {value:.3f}" for head, value in title.objective_parts.items())
        console.print(f"[bold]{title.position + 1}. {title.name}[/bold]", highlight=False)
        if s.objective is None or title.retrieval_brought is None:
            console.print("   not ranked", highlight=False)
            continue
        console.print(
            f"   objective {s.objective:.3f} = {parts}; {s.diversity_penalty or 0:.3f} off for likeness\n"
            f"   retrieval score {s.retrieval:.2f} brought {title.retrieval_brought:+.3f}; image "
            f"{title.artwork_id}, drawn with {_number(title.propensity) or 'no'} probability",
            highlight=False,
        )
        for reason in title.reasons:
            value = "unknown" if reason.value is None else f"{reason.value:.4g}"
            console.print(f"   {reason.brought:+.3f}  {reason.feature} = {value}", highlight=False)
        console.print(f"   {title.other_features_brought:+.3f}  all other features", highlight=False)


def print_timings(timings: Timings) -> None:
    """Milliseconds of each stage, in process and on one thread."""
    title = (
        f"time of each stage over {timings.pages} pages: {timings.titles:,} titles, {timings.candidates} candidates × "
        f"{timings.features} features, one thread"
    )
    rows = [[t.stage, f"{t.p50:.2f}", f"{t.p99:.2f}"] for t in timings.stages]
    console.print(title, highlight=False)
    print_table("", ("stage", "p50 ms", "p99 ms"), rows)


def print_problems(problems: Sequence[Problem], folder: Path) -> None:
    """Errors and warnings a line each on standard error; notes that say the same together, on standard output."""
    notes: dict[str, list[str]] = {}
    for problem in problems:
        if problem.severity == "note":
            notes.setdefault(problem.message, []).append(problem.file)
        else:
            errors.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    for message, files in notes.items():
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        console.print(
            f"note: {', '.join(files[:3])}{more}: {message}", highlight=False, markup=False, soft_wrap=True
        )
    wrong = Counter(problem.severity for problem in problems if problem.severity != "note")
    told = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(wrong.items()))
    console.print(f"{folder}: {told or 'nothing wrong'}", highlight=False, markup=False)


def print_readout(readout: Readout) -> None:
    """Health first, then estimates with intervals, then what to know beside, then the sentence."""
    health = readout.health
    arms = ", ".join(str(n) for n in health.units)
    chi = "not defined" if health.p_value is None else f"{health.p_value:.3f}"
    state = "[green]healthy[/green]" if health.healthy else f"[red]broken: {'; '.join(health.findings)}[/red]"
    console.print(
        f"[bold]{readout.experiment.name}[/bold]: units per arm {arms}; sample ratio {state} "
        f"(log e-value {health.log_e_value:.2f}, χ² p {chi})",
        highlight=False,
    )
    for comparison in readout.comparisons:
        rows = [
            _estimate_row(
                "primary", comparison.primary, "significant" if comparison.success else "not significant"
            )
        ]
        rows += [
            _estimate_row(
                "guardrail",
                g.estimate,
                f"{'within' if g.non_inferior else 'not shown within'} a margin of {g.margin:.0%}",
            )
            for g in comparison.guardrails
        ]
        print_table(f"{comparison.treatment} against {readout.experiment.control}",
                    ("role", "metric", "control", "treatment", "difference", "interval", "p", "finding"), rows)  # fmt: skip
    for line in _remarks(readout):
        console.print(line, highlight=False)
    console.print(f"[bold]{readout.verdict.value}[/bold]: {readout.sentence}", highlight=False)


def _remarks(readout: Readout) -> list[str]:
    """How often it was looked at, segments that moved, effects that fade."""
    from experiments.decision import levels_of  # noqa: PLC0415  (loads tea-tasting)
    from experiments.sentences import looks_said  # noqa: PLC0415

    if not readout.comparisons:
        return []
    looks = looks_said(readout.looks, levels_of(readout.experiment, readout.rule, readout.looks))
    moved = [
        f"{s.segment}: moved in {s.treatment} (adjusted p {s.p_adjusted:.2g})"
        for s in readout.segments
        if s.moved
    ]
    fading = [
        f"The effect of {n.treatment} fades over the days since first exposure."
        for n in readout.novelty
        if n.fading
    ]
    return [looks, *moved, *fading]


def _estimate_row(role: str, e: Estimate, finding: str) -> Sequence[object]:
    relative = "" if e.relative is None else f" ({e.relative:+.1%})"
    return (role, e.metric, f"{e.control:.3f}", f"{e.treatment:.3f}", f"{e.difference:+.3f}{relative}",
            f"{e.low:+.3f} … {e.high:+.3f}", f"{e.p_value:.4f}", finding)  # fmt: skip


def print_fit(fit: Fit) -> None:
    """Whether a version may be served, and every difference."""
    state = "[green]fits[/green]" if fit.fits else "[red]does not fit[/red]"
    console.print(f"{fit.ref} {state} snapshot {fit.generation}", highlight=False)
    for given in fit.inputs:
        found = len(given.differences)
        console.print(
            f"  input {given.name}: {given.service}, {given.columns} features, {found} differ",
            highlight=False,
        )
        for difference in given.differences:
            console.print(f"    {difference}", highlight=False, markup=False)
    for difference in fit.libraries:
        console.print(f"  worth a look: {difference}", highlight=False, markup=False)


def print_reproduction(outcome: Reproduction) -> None:
    """Equal, or what differs and what may be the cause."""
    files, measured = len(outcome.files), len(outcome.measured)
    if outcome.equal:
        console.print(
            f"{outcome.ref}: [green]equal[/green], every file byte for byte, every metric to the last digit"
        )
    else:
        console.print(f"{outcome.ref}: [red]differs[/red] in {files} files and {measured} metrics")
    for circumstance in outcome.circumstances:
        console.print(f"  not as it was then: {circumstance}", highlight=False, markup=False)
    for difference in outcome.inside:
        console.print(f"  {difference}", highlight=False, markup=False)
    rows = [[name, was, now] for name, (was, now) in outcome.measured.items()]
    if rows:
        print_table("metrics", ("metric", "recorded", "now"), rows)


def print_lineage(lineage: Lineage) -> None:
    """The chain from raw events to read-outs, a branch a kind."""
    tree = Tree(f"[bold]{lineage.target}[/bold]")
    views: dict[str, int] = {}
    for feature in lineage.features:
        views[feature.view] = views.get(feature.view, 0) + 1
    events = [
        f"{t.source}: [{t.interval_start:%Y-%m-%d}, {t.interval_end:%Y-%m-%d})" for t in lineage.training_sets
    ]
    branches = {
        "raw events": [event.replace("[", "\\[", 1) for event in dict.fromkeys(events)],
        "features": [f"{count} of {view}" for view, count in views.items()] if len(lineage.features) > 12
        else [f"{f.view}:{f.name} {f.digest}" for f in lineage.features],
        "feature services": [f"{s.name} {s.digest[:12]} ({len(s.features)} features)" for s in lineage.services],
        "training sets": [f"{t.digest}: {t.rows:,} rows" for t in lineage.training_sets],
        "model versions": [_version_line(version) for version in lineage.versions],
        "Bentos": [f"{b.tag} {b.digest[:12]}" for b in lineage.bentos],
        "arms": [f"{a.ref} ({a.state}): {a.parameter} = {a.version}" for a in lineage.arms],
        "read-outs": [f"{r.experiment} {r.id}: {r.verdict.get('verdict')}" for r in lineage.readouts],
    }  # fmt: skip
    for name, lines in branches.items():
        if lines:
            branch = tree.add(f"[bold]{name}[/bold]")
            for line in lines:
                branch.add(line)
    console.print(tree, highlight=False)


MOST_SHOWN = 20
"""Findings of one kind that are listed; `--json` has them all."""


def print_fsck(report: FsckReport) -> None:
    """What a check of the ledger looked at and found, kind by kind: where, why it matters, what mends it."""
    read = f"{report.read_bytes:,} bytes hashed anew" if report.read_bytes else "contents not read"
    console.print(
        f"{report.artifacts:,} artifacts in use, {read}; {report.files:,} files in the store", highlight=False
    )
    for kind in dict.fromkeys(found.kind for found in report.findings):
        theirs = [found for found in report.findings if found.kind is kind]
        style = "red" if kind.severity == "error" else "yellow"
        console.print(
            f"[{style}]{kind.severity}[/{style}] [bold]{kind.name}[/bold] × {len(theirs):,}", highlight=False
        )
        console.print(
            f"  why it matters: {kind.why}\n  what mends it: {kind.mend}", highlight=False, markup=False
        )
        for found in theirs[:MOST_SHOWN]:
            breaks = f"; breaks {', '.join(found.breaks)}" if found.breaks else ""
            console.print(f"  {found.where}: {found.what}{breaks}", highlight=False, markup=False)
        if len(theirs) > MOST_SHOWN:
            console.print(f"  … and {len(theirs) - MOST_SHOWN:,} more (--json lists them)", highlight=False)
    for model, numbers in report.to_dict()["gone"].items():
        console.print(f"{model}: deleted since they were given out: {numbers}", highlight=False, markup=False)
    if report.young:
        console.print(f"{report.young:,} orphans are younger than --older-than: left out", highlight=False)
    if report.swept is not None:
        gone = report.swept
        console.print(
            f"swept: {gone.files:,} files ({gone.bytes:,} bytes), {gone.artifacts:,} rows of artifacts, {gone.uploads:,} uploads",
            highlight=False,
        )
    errors = len(report.errors)
    console.print(f"{errors:,} errors, {len(report.findings) - errors:,} warnings", highlight=False)


def _version_line(version: VersionNode) -> str:
    held = "".join(f" @{alias}" for alias in version.aliases)
    behind = f", behind {', '.join(version.upstream)}" if version.upstream else ""
    return f"{version.ref}{held} {version.digest[:12]}{behind}"


def print_evaluation(evaluation: Evaluation) -> None:
    """A table for each slice: every measure with its 95 % interval, beside the peers'; * where chance alone is unlikely."""
    words = "simulated members" if evaluation.simulated else "real users"
    for part in evaluation.slices:
        rows = [
            [name, str(evaluation.estimate(evaluation.ours, part, name))]
            + [_beside(evaluation, peer, part, name) for peer in evaluation.peers]
            for name in evaluation.measures(part)
        ]
        whole = {model: of.get(part, {}) for model, of in evaluation.of_all.items()}
        rows += [
            [name, *(f"{whole[model][name]:.4f}" for model in evaluation.models)]
            for name in whole.get(evaluation.ours, {})
        ]
        users = evaluation.estimate(evaluation.ours, part, evaluation.measures(part)[0]).users
        print_table(
            f"{part}: {users:,} {words} of {evaluation.source}, {evaluation.as_of:%Y-%m-%d} to {evaluation.until:%Y-%m-%d}",
            ("measure", *evaluation.models),
            rows,
        )
    console.print(
        "* differs from ours with p < 0.05, by flipping signs of users' differences", highlight=False
    )


def _beside(evaluation: Evaluation, peer: str, part: str, measure: str) -> str:
    found = evaluation.comparisons[peer][part][measure]
    mark = " *" if found.p_value < 0.05 else ""
    return f"{evaluation.estimate(peer, part, measure).value:.4f}{mark}"
