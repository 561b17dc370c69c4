"""`matinee demo`: the main job end to end on the built-in world."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from experiments.live import LiveExperiments
from experiments.reading import SHIPPED, load
from experiments.readout import Readout
from feature_repo.repository import apply as apply_to_feast
from matinee.abtest import members, run_sessions
from matinee.context import Day, load_world
from matinee.day import run_day
from matinee.deployment import build_bento, newest_tag, services_of
from matinee.experimenting import readout, start_experiment, stop_experiment
from matinee.progress import Stage, Stages, peak_memory_gb
from matinee.recommending import known_users, looker
from matinee.report import print_metrics, print_registry
from matinee.session import console, opened, staged
from matinee.show import print_page, print_readout
from matinee.verifying import NothingToVerify, Verdict, Wanted, verify_day

EXPERIMENT = "homepage-multi-objective"
MEMBERS = 2400
PAGE = 40


class ServedOtherwise(RuntimeError):
    """Pages were made from features that are not what the offline computation gives."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        services = ", ".join(verdict.service.name for verdict in verdicts)
        super().__init__(f"{services}: served otherwise than computed. See `matinee features verify`.")


def run_demo() -> None:
    """Run, or bring up to date, the whole chain; then show one page, the registry and the read-out."""
    began = time.perf_counter()
    with opened("world") as day:
        with staged() as stages:
            versions = run_day(day, stages)
            with stages.stage("apply to Feast") as stage:
                stage.note = str(apply_to_feast(day.workspace.root, day.workspace.declarations))
            with stages.stage("build Bentos") as stage:
                stage.note = ", ".join(build_bento(day, service, stage).tag for service in services_of(day))
            result = _experiment(day, stages)
            with stages.stage("verify served features") as stage:
                _verify(day, stage)
        print_metrics(versions)
        with looker(day) as look:
            print_page(look.page(known_users(day)[0], PAGE), rows=10)
        print_registry(day.registry)
        print_readout(result)
        _say_how_to_open(day)
    console.print(
        f"{time.perf_counter() - began:.0f} s, peak memory {peak_memory_gb():.1f} GB", highlight=False
    )


def _experiment(day: Day, stages: Stages) -> Readout:
    """Run the A/B test on the served page once for each Bento and declaration, and read it out."""
    marker = day.workspace.root / "experiment.json"
    with stages.stage("A/B test, simulated") as stage:
        done = json.loads(marker.read_text()) if marker.exists() else {}
        wanted = _inputs(day)
        if done.get("inputs") == wanted:
            stage.skip("this Bento was tested; its read-out is in the ledger")
            return Readout.from_json(json.dumps(done["readout"]))
        at = _start(day)
        _run(day, at, stage)
        made = readout(day, EXPERIMENT, at + timedelta(days=1))
        marker.write_text(json.dumps({"inputs": wanted, "readout": json.loads(made.to_json())}))
        return made


def _inputs(day: Day) -> dict[str, str]:
    """What decides the outcome of the test."""
    declared = load(SHIPPED).experiments[EXPERIMENT]
    return {
        "bento": newest_tag(day, "homepage"),
        "experiment": declared.model_dump_json(),
        "members": str(MEMBERS),
    }


def _start(day: Day) -> datetime:
    """Make the experiment live with today's champions, on a simulated day that no earlier run has used."""
    live = LiveExperiments.read(day.workspace.live)
    if EXPERIMENT in {entry.name for entry in live.experiments}:
        stop_experiment(day, EXPERIMENT, by="demo", reason="to be run again on another Bento")
    runs = sum(run.name == EXPERIMENT for run in day.registry.experiments())
    at = day.as_of + timedelta(days=runs)
    start_experiment(day, EXPERIMENT, at, by="demo")
    return at


def _run(day: Day, at: datetime, stage: Stage) -> None:
    sessions = run_sessions(day, load_world(day), at, members(day, MEMBERS), PAGE, stage)
    stage.note = (
        f"{sessions.pages:,} pages over HTTP ({sessions.by_source}), {sessions.plays:,} simulated plays"
    )


def _verify(day: Day, stage: Stage) -> None:
    """Compute again what a share of the served pages was given.

    Raises:
        ServedOtherwise: something was served that is not what was computed.
    """
    try:
        verdicts = verify_day(day, Wanted(), stage)
    except NothingToVerify as nothing:
        stage.skip(str(nothing))
        return
    for verdict in verdicts:
        day.registry.record_consistency(verdict.to_record())
    if failed := [verdict for verdict in verdicts if not verdict.passed]:
        raise ServedOtherwise(failed)


def _say_how_to_open(day: Day) -> None:
    home, tag = day.workspace.root, newest_tag(day, "homepage")
    lines = {
        "a page over HTTP": "matinee bento serve   then  curl -s localhost:3000/page -H 'content-type: application/json' -d '{\"user_id\": 17, \"size\": 40}'",
        "the same Bento, stock": f"MATINEE_HOME={home} BENTOML_HOME={day.workspace.bentos} bentoml serve {tag}",
        "features": "matinee features list, matinee features docs",
        "gate": f"open {day.gatekeeper.docs / 'index.html'}",
        "served as computed": "matinee features verify, matinee features status",
        "registry": "matinee models list, matinee models explain ranker@champion",
        "experiment": f"matinee experiments readout {EXPERIMENT}",
        "Feast": f"MATINEE_HOME={home} feast -c feature_repo feature-views list",
        "time of each stage": "matinee recommend 17 --timings",
    }  # fmt: skip
    console.print("\n[bold]how to open each thing[/bold]")
    for what, how in lines.items():
        console.print(f"  {what:<24} {how}", highlight=False, markup=False, soft_wrap=True)
