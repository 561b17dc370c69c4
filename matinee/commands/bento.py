"""`matinee bento`: build and serve."""

from __future__ import annotations

from typing import Annotated

import typer

from matinee.commands.verification import Clock, WhichClock
from matinee.session import AsJson, AsOf, Source, console, opened, print_json, print_table, staged
from serving.manifest import NEEDS

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
