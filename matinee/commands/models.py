"""`matinee models`: what the ledger knows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from matinee.session import (
    AsJson,
    Source,
    console,
    errors,
    opened,
    print_json,
    print_pairs,
    print_table,
    staged,
)
from registry import ModelVersion
from registry.lineage import Lineage

app = typer.Typer(no_args_is_help=True, help="The registry: versions, aliases, lineage.")

Mermaid = Annotated[
    bool, typer.Option("--mermaid", help="Print the graph as Mermaid, for a page that draws it.")
]
Svg = Annotated[
    Path | None,
    typer.Option("--svg", metavar="PATH", dir_okay=False, writable=True, allow_dash=True,
                 help="Write the graph as a picture to an SVG file; - is standard output."),
]  # fmt: skip


def _as_dict(version: ModelVersion) -> dict[str, Any]:
    return {
        "ref": version.ref,
        "digest": version.digest,
        "created_at": version.created_at,
        "aliases": list(version.aliases),
        "source": version.source,
        "training_set": version.training_set,
        "metrics": {f"{m.name} ({m.split})": m.value for m in version.metrics},
        "tags": dict(version.tags),
        "params": dict(version.params),
        "files": {f.path: f.sha256 for f in version.files},
    }


@app.command("list")
def list_(source: Source = None, as_json: AsJson = False) -> None:
    """Every model, its newest version and where its aliases stand; and which version is live where."""
    with opened(source) as day:
        found, live = day.registry.models(), day.registry.live()
    if as_json:
        print_json({"models": [vars(m) for m in found], "live": [vars(x) for x in live]})
        return
    rows = [
        [m.name, m.versions, m.latest, ", ".join(f"{a} → {n}" for a, n in m.aliases.items())] for m in found
    ]
    print_table("models", ("model", "versions", "latest", "aliases"), rows)
    print_table(
        "live",
        ("version", "as", "where", "since"),
        [[x.ref, x.kind, x.where, f"{x.since:%Y-%m-%d %H:%M}"] for x in live],
    )


@app.command()
def show(ref: str, source: Source = None, as_json: AsJson = False) -> None:
    """One version, by `ranker@champion`, `ranker/3` or `ranker`: metrics, parameters, tags, files."""
    with opened(source) as day:
        version = _as_dict(day.registry.get(ref))
    if as_json:
        print_json(version)
        return
    nested = {"metrics", "tags", "params", "files"}
    print_pairs({name: value for name, value in version.items() if name not in nested})
    for name in ("metrics", "tags", "params", "files"):
        print_table(name, ("name", "value"), [[k, v] for k, v in version[name].items()])


@app.command()
def report(ref: str, source: Source = None, as_json: AsJson = False,
           out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", file_okay=False, help="Where to; .matinee/<source>/reports/<model>/<version> unless given.")] = None) -> None:  # fmt: skip
    """Write a version's report page and figures into a folder, and print their paths."""
    with opened(source) as day:
        version = day.registry.get(ref)
        folder = out or day.workspace.reports / version.name / str(version.number)
        paths = day.registry.fetch_documents(version.ref, folder)
    if as_json:
        print_json({"ref": version.ref, "documents": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(path)
    if not paths:
        errors.print(f"{version.ref} has no documents", highlight=False)


@app.command()
def search(query: Annotated[str, typer.Argument(help="Such as: metrics.recall_at_200 > 0.3 and tags.source = 'kuairand'")] = "",
           source: Source = None, as_json: AsJson = False,
           order_by: Annotated[list[str] | None, typer.Option(help="Such as: metrics.recall_at_200 DESC")] = None,
           limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
           page_token: Annotated[str | None, typer.Option(help="From the page before.")] = None) -> None:  # fmt: skip
    """Versions for which a query holds, over name, version, tags, params, metrics, aliases, features, arms."""
    with opened(source) as day:
        page = day.registry.search(query, tuple(order_by or ()), limit, page_token)
    if as_json:
        print_json(
            {"versions": [_as_dict(v) for v in page.versions], "next_page_token": page.next_page_token}
        )
        return
    rows = [
        [v.ref, ", ".join(v.aliases), v.source, f"{v.created_at:%Y-%m-%d %H:%M}", _headline(v)]
        for v in page.versions
    ]
    print_table(f"{len(rows)} versions", ("version", "aliases", "source", "created", "metrics"), rows)
    if page.next_page_token:
        console.print(f"more: --page-token {page.next_page_token}", highlight=False)


def _headline(version: ModelVersion) -> str:
    wanted = ("recall_at_200", "ndcg_at_20", "play_auc", "validity", "snips_lift")
    return ", ".join(f"{m.name} {m.value:.3f}" for m in version.metrics if m.name in wanted)


@app.command()
def promote(ref: str, alias: str = "champion", source: Source = None,
            expect: Annotated[int | None, typer.Option(help="Move only if the alias stands on this number now.")] = None,
            by: str = "cli", reason: str = "promoted by hand") -> None:  # fmt: skip
    """Point an alias at a version, on the evidence recorded with it. Running services follow the champions."""
    from matinee.publishing import publish_champions

    with opened(source) as day:
        if expect is None:
            version = day.registry.promote(ref, alias, by=by, reason=reason)
        else:
            version = day.registry.promote(ref, alias, expect=expect, by=by, reason=reason)
        publish_champions(day)
    console.print(f"{version.name}@{alias} is {version.ref}", highlight=False)


@app.command()
def explain(
    ref: str, source: Source = None, as_json: AsJson = False, mermaid: Mermaid = False, svg: Svg = None
) -> None:
    """Where a version, an arm or a read-out comes from: events, features, training set; and where it serves.

    Without --json, --mermaid or --svg it is shown as a tree.
    """
    _check_format(as_json=as_json, mermaid=mermaid, svg=svg)
    with opened(source) as day:
        lineage = day.registry.explain(ref)
    _print_lineage(lineage, as_json=as_json, mermaid=mermaid, svg=svg)


@app.command()
def impact(kind: Annotated[str, typer.Argument(help="feature, service, training_set, or a version's reference")],
           name: Annotated[str, typer.Argument(help="its name or digest")] = "", source: Source = None,
           as_json: AsJson = False, mermaid: Mermaid = False, svg: Svg = None) -> None:  # fmt: skip
    """Everything that a feature, a service, a training set or a version reaches.

    Without --json, --mermaid or --svg it is shown as a tree.
    """
    _check_format(as_json=as_json, mermaid=mermaid, svg=svg)
    with opened(source) as day:
        lineage = day.registry.impact(f"{kind} {name}".strip())
    _print_lineage(lineage, as_json=as_json, mermaid=mermaid, svg=svg)


@app.command()
def check(ref: str, source: Source = None, as_json: AsJson = False) -> None:
    """Does a version fit what is live? Its features, their order and types beside the published snapshot (exit code 1 if not)."""
    from matinee.checking import check as compare
    from matinee.show import print_fit

    with opened(source) as day:
        fit = compare(day, ref)
    if as_json:
        print_json(fit.to_dict())
    else:
        print_fit(fit)
    if not fit.fits:
        raise typer.Exit(1)


@app.command()
def reproduce(ref: str, source: Source = None, as_json: AsJson = False) -> None:
    """Train a version again from its recorded config, seed and digests; equal, or what differs (exit code 1)."""
    from matinee.reproducing import reproduce as train_again
    from matinee.show import print_reproduction

    with opened(source) as day, staged() as stages, stages.stage(f"train {ref} again") as stage:
        outcome = train_again(day, ref, stage)
    if as_json:
        print_json(outcome.to_dict())
    else:
        print_reproduction(outcome)
    if not outcome.equal:
        raise typer.Exit(1)


@app.command()
def fsck(source: Source = None, as_json: AsJson = False,
         sweep: Annotated[bool, typer.Option("--sweep", help="Delete what is nobody's, unless there are errors. The artifacts folder must be this ledger's alone.")] = False,
         older_than: Annotated[float, typer.Option(min=0, metavar="HOURS", help="Leave younger orphans alone: their process may be about to record them.")] = 1,
         uploads_older_than: Annotated[float, typer.Option(min=0, metavar="HOURS", help="Files sent ahead of a version count as somebody's for so long.")] = 24,
         content: Annotated[bool, typer.Option("--content/--no-content", help="Read and hash every artifact.")] = True) -> None:  # fmt: skip
    """Check the ledger and its files: what is lost or harmed, and what is nobody's. Exit code 1 on errors."""
    from matinee.show import print_fsck

    ages = {
        "older_than": timedelta(hours=older_than),
        "uploads_older_than": timedelta(hours=uploads_older_than),
    }
    with opened(source) as day:
        report = day.registry.fsck(sweep=sweep, content=content, **ages)
    if as_json:
        print_json(report.to_dict())
    else:
        print_fsck(report)
        if sweep and report.swept is None:
            console.print("nothing was swept: mend the errors first, lost rows may have spoken of orphans")
    if report.errors:
        raise typer.Exit(1)


def _check_format(*, as_json: bool, mermaid: bool, svg: Path | None) -> None:
    """Refuse two formats at once, and a file in a folder that is not there, before anything is read."""
    asked = {"--json": as_json, "--mermaid": mermaid, "--svg": svg is not None}
    given = [option for option, wanted in asked.items() if wanted]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} are two formats of one answer: give one of them.")
    if svg is not None and not svg.parent.is_dir():
        raise typer.BadParameter(f"--svg {svg}: there is no folder {svg.parent}.")


def _print_lineage(lineage: Lineage, *, as_json: bool, mermaid: bool, svg: Path | None) -> None:
    from matinee.show import print_lineage
    from registry.drawing import to_svg

    if as_json:
        print_json(lineage.to_dict())
    elif mermaid:
        typer.echo(lineage.to_mermaid())
    elif svg == Path("-"):
        typer.echo(to_svg(lineage), nl=False)
    elif svg is not None:
        svg.write_text(to_svg(lineage), encoding="utf-8", newline="\n")
        console.print(
            f"{svg} shows the lineage of {lineage.target}", highlight=False, markup=False, soft_wrap=True
        )
    else:
        print_lineage(lineage)
