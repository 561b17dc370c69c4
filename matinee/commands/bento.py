"""`matinee bento`: build and serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matinee.commands.verification import Clock, WhichClock
from matinee.session import AsJson, AsOf, Source, console, opened, print_json, print_table, staged
from serving.manifest import NEEDS

if TYPE_CHECKING:
    from matinee.context import Day
    from serving.rollout import Rollout

app = typer.Typer(
    no_args_is_help=True, help="Bentos: build services with their model versions inside, serve a built one."
)


@app.command()
def build(service: Annotated[str, typer.Argument(help=f"{', '.join(NEEDS)}, or all")] = "homepage",
          source: Source = None, as_of: AsOf = None) -> None:  # fmt: skip
    """Build a Bento of the champions and of every version a live arm asks for."""
    from matinee.deployment import build_bento, services_of

    with opened(source, as_of) as day:
        if service not in {*NEEDS, "all"}:
            raise typer.BadParameter(f"no service {service!r}. There are: {', '.join(NEEDS)}, or all.")
        for name in services_of(day) if service == "all" else [s for s in NEEDS if s == service]:
            with staged() as stages, stages.stage(f"build {name}") as stage:
                build_bento(day, name, stage)


@app.command("list")
def list_(source: Source = None, as_json: AsJson = False) -> None:
    """Built Bentos and the versions in them."""
    with opened(source) as day:
        live = [x for x in day.registry.live() if x.kind == "bento"]
    if as_json:
        print_json([vars(x) for x in live])
        return
    print_table(
        "bentos", ("tag", "version", "since"), [[x.where, x.ref, f"{x.since:%Y-%m-%d %H:%M}"] for x in live]
    )


Tag = Annotated[str, typer.Argument(help="NAME:TAG, as `matinee bento list` has it")]


@app.command()
def dockerfile(tag: Tag, source: Source = None) -> None:
    """Print the Dockerfile that `bentoml containerize NAME:TAG` builds with; fails if anything in it is wrong."""
    from matinee.deployment import bento_root
    from serving.containers import dockerfile as rendered
    from serving.containers import image, problems

    with opened(source) as day:
        root = bento_root(day, tag)
        typer.echo(rendered(root))
        for problem in (found := problems(image(root))):
            typer.echo(f"{tag}: {problem}", err=True)
    raise typer.Exit(1 if found else 0)


@app.command()
def manifest(
    tag: Tag,
    namespace: Annotated[str, typer.Option(help="Kubernetes namespace")] = "matinee",
    image: Annotated[str, typer.Option(help="the image, with its registry; NAME:TAG if left out")] = "",
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim of the workspace")] = "matinee-workspace",
    token_secret: Annotated[str, typer.Option(help="Secret with the API token under `token`; '' for none")] = "matinee-api",  # noqa: S107
    apart: Annotated[bool, typer.Option("--apart", help="homepage: ask the other services for its stages")] = False,
    replicas: Annotated[tuple[int, int], typer.Option(help="fewest and most pods")] = (2, 10),
    in_flight: Annotated[int, typer.Option(min=1, help="requests in flight a pod, around which pods are added")] = 4,
    source: Source = None,
) -> None:  # fmt: skip
    """Print Kubernetes manifests of a built Bento: Service, Deployment, disruption budget and autoscaler."""
    from matinee.deployment import bento_root
    from serving.kubernetes import Deployed, manifests, to_yaml

    with opened(source) as day:
        bento_root(day, tag)
    how: dict[str, object] = {
        "namespace": namespace, "claim": claim, "apart": apart, "in_flight": in_flight,
        "token_secret": token_secret or None, "min_replicas": replicas[0], "max_replicas": replicas[1],
    }  # fmt: skip
    typer.echo(to_yaml(manifests(Deployed.of_tag(tag, **how | ({"image": image} if image else {})))))


@app.command()
def dashboard() -> None:
    """Print a Grafana dashboard (JSON) of what services tell Prometheus."""
    from serving.dashboard import dashboard as made

    print_json(made())


@app.command()
def serve(tag: Annotated[str, typer.Argument(help="NAME:TAG; the newest homepage if left out")] = "",
          source: Source = None, port: Annotated[int | None, typer.Option(min=1, max=65_535)] = None,
          clock: WhichClock = Clock.REPLAY) -> None:  # fmt: skip
    """Serve a built Bento until interrupted: POST /page {"user_id": 17, "size": 40}.

    The service's clock starts at the day's as_of, as replayed events end there, or is the wall clock (--clock now).
    """
    from matinee.deployment import newest_tag, serving
    from serving.running import serve as serve_bento

    with opened(source) as day:
        starts_at = day.as_of if clock is Clock.REPLAY else None
        made = serving(day, tag or newest_tag(day, "homepage"), port or day.settings.port, starts_at)
    runs = (
        "by the wall clock"
        if starts_at is None
        else f"by a clock that starts at {starts_at:%Y-%m-%d %H:%M} UTC"
    )
    console.print(f"serving {made.tag} at {made.base_url}, {runs}", highlight=False)
    raise typer.Exit(serve_bento(made))


@app.command()
def champions(source: Source = None, follow: Annotated[float | None, typer.Option(min=0.1, metavar="SECONDS", help="Go on, looking at the ledger so often, until interrupted.")] = None) -> None:  # fmt: skip
    """Publish the ledger's champions to running services, as `models promote` does: for aliases that were moved elsewhere."""
    import time

    from matinee.publishing import publish_champions

    with opened(source) as day:
        while True:
            if changed := publish_champions(day):
                console.print(f"published: {', '.join(changed)}", highlight=False)
            if follow is None:
                return
            time.sleep(follow)


@app.command()
def shadow(ref: Annotated[str, typer.Argument(help="Such as ranker/4.")], source: Source = None,
           off: Annotated[bool, typer.Option("--off", help="Let it go.")] = False) -> None:  # fmt: skip
    """Let a version score what users are shown, unseen; running services take it up. What it says: `bento shadows`."""
    from matinee.rolling_out import end_shadow
    from matinee.rolling_out import shadow as declare

    with opened(source) as day:
        _print_rollout(day, end_shadow(day, ref) if off else declare(day, ref))


@app.command()
def canary(ref: Annotated[str, typer.Argument(help="Such as ranker/4.")], source: Source = None,
           share: Annotated[float | None, typer.Option(min=0, max=1, help="Of the users, such as .05.")] = None,
           off: Annotated[bool, typer.Option("--off", help="Serve everybody the default again.")] = False) -> None:  # fmt: skip
    """Serve a version to a share of the users, always the same ones; running services take it up."""
    from matinee.rolling_out import canary as declare
    from matinee.rolling_out import end_canary

    if off == (share is not None) or share == 0:
        raise typer.BadParameter("give a --share above 0, or --off.")
    with opened(source) as day:
        _print_rollout(day, end_canary(day, ref) if share is None else declare(day, ref, share))


@app.command()
def shadows(source: Source = None, as_json: AsJson = False) -> None:
    """How often shadow versions would have shown the same as those that were shown."""
    from dataclasses import asdict

    from serving.shadow_log import agreements, records

    with opened(source) as day:
        found = agreements(records(day.workspace.shadows))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    columns = ("kind", "shadow", "shown", "pages", "same first", "same titles", "same images")
    print_table("shadows", columns, [list(asdict(one).values()) for one in found])


def _print_rollout(day: Day, rollout: Rollout) -> None:
    from matinee.rolling_out import not_in_newest_bento

    rows = [["shadow", entry.ref, ""] for entry in rollout.shadows]
    rows += [["canary", entry.ref, f"{entry.share:.2%}"] for entry in rollout.canaries]
    print_table("on their way", ("as", "version", "share"), rows)
    if missing := not_in_newest_bento(day, rollout):
        console.print(
            f"The newest Bento lacks {', '.join(missing)}: services refuse this roll-out until one with it is built "
            "(`matinee bento build`) and served.",
            highlight=False,
        )
