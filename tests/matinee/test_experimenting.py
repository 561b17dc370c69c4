"""From a scoped test to its launch, and a harmful one rolled back: on a workspace, its lake and its ledger."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.assignment import Assigner
from experiments.config import EVERYONE
from experiments.decision import Verdict
from experiments.live import LiveExperiments
from experiments.reading import SHIPPED, load
from experiments.readout import Readout
from experiments.scoping import Draft
from matinee.experimenting import (
    NotToShip,
    conclude_experiment,
    problems,
    readout,
    ship,
    start_experiment,
    stop_experiment,
    watch_experiment,
)
from matinee.programme import end_holdout, holdout_readout, last_readouts, plan_holdout, scan, start_holdout
from matinee.scoping import history, scope_experiment
from matinee.session import opened
from matinee.simulation.config import Trial
from matinee.simulation.trials import Programme
from registry import RunState
from serving.exposure_table import EXPOSURES

pytestmark = pytest.mark.slow
FIRST, USERS = 50_000_000, 3_000  # members of this test only
DAYS = timedelta(days=1)


@pytest.fixture
def folder(tmp_path):
    """The shipped parameters, metrics and a hold-out, without experiments."""
    for name in ("parameters.yaml", "metrics.yaml", "holdouts.yaml"):
        (tmp_path / name).write_text((SHIPPED / name).read_text())
    return tmp_path


def declare(folder, name, start):
    text = f"""\
name: {name}
layer: ranking
owner: me
hypothesis: More variety, more minutes.
start: {start:%Y-%m-%d}
end: {start + 30 * DAYS:%Y-%m-%d}
planned_units: {USERS}
arms:
  control: {{share: 0.5}}
  treatment: {{share: 0.5, parameters: {{weights.diversity: 0.4}}}}
metrics:
  primary: minutes_7d
  guardrails: [{{metric: any_play_1d, margin: 0.1}}]
"""
    (folder / f"{name}.yaml").write_text(text)


def shown(day, at, units):
    """Log one page for each unit with its arms, and return what they are."""
    assigner = Assigner(LiveExperiments.read(day.workspace.live))
    arms = [[{"experiment": e, "arm": a} for e, a in assigner.assign(unit).arms] for unit in units.tolist()]
    n = len(units)
    known = {
        "impression_id": pa.array(units * 1_000 + int(at.timestamp()) % 997), "request_id": [f"{at}-{u}" for u in units],
        "user_id": units, "title_id": np.ones(n, np.int64), "position": np.zeros(n, np.int64),
        "event_timestamp": pa.array([at] * n, pa.timestamp("us", "UTC")), "arms": arms,
    }  # fmt: skip
    table = pa.table(
        {
            f.name: pa.array(known[f.name], f.type) if f.name in known else pa.nulls(n, f.type)
            for f in EXPOSURES
        }
    )
    day.workspace.exposures.mkdir(exist_ok=True)
    path = day.workspace.exposures / f"part-{units[0]}-{int(at.timestamp())}.parquet"
    pq.write_table(table.replace_schema_metadata({b"matinee.segments": b"[]"}), path)
    return [{arm["experiment"]: arm["arm"] for arm in of_unit} for of_unit in arms]


def played(day, at, units, minutes, plays):
    """Append a play an hour after `at` for each unit that `plays`."""
    who = units[plays]
    when = pa.array([at + timedelta(hours=1)] * len(who), pa.timestamp("us", "UTC"))
    day.workspace.lake.append("plays", pa.table({
        "play_id": who * 10_000 + int(at.timestamp()) % 9_973, "user_id": who, "title_id": np.ones(len(who), np.int64),
        "watch_minutes": minutes[plays], "watch_share": np.full(len(who), 0.5), "completed": np.zeros(len(who), bool),
        "event_timestamp": when, "created_timestamp": when,
    }), received_at=at + timedelta(hours=2))  # fmt: skip


def run(day, name, at, units, *, lift=1.0, share=0.8):
    """Show everyone a page, and let treatment watch `lift` times as long and play with probability `share`."""
    arms = shown(day, at, units)
    treated = np.array([of.get(name) == "treatment" for of in arms])
    rng = np.random.default_rng(len(name))
    minutes = rng.gamma(4, 15, len(units)) * np.where(treated, lift, 1.0)
    played(day, at, units, minutes, rng.random(len(units)) < np.where(treated, share, 0.8))


def test_a_test_is_started_read_out_and_launched_for_everyone(copied_day, folder):
    day, at = copied_day, copied_day.as_of + timedelta(hours=3)
    declare(folder, "variety", day.as_of)
    (note,) = problems(day, folder)
    assert (note.severity, note.message) == ("note", "power was not checked: it states no effect.")
    start_experiment(day, "variety", at, "me", folder)
    units = FIRST + np.arange(USERS)
    run(day, "variety", at, units, lift=1.3)

    early = readout(day, "variety", at + 2 * DAYS)
    assert early.verdict is Verdict.NO_VERDICT
    assert f"minutes_7d until {day.as_of + 8 * DAYS:%Y-%m-%d}" in early.sentence
    with pytest.raises(NotToShip, match="No verdict"):
        ship(day, "variety", "me")
    assert not watch_experiment(day, "variety", at + 9 * DAYS, "watch").roll_back

    made = readout(day, "variety", at + 9 * DAYS)
    assert (made.verdict, made.winner) == (Verdict.SHIP, "treatment")
    assert (made.looks.method, len(made.looks.fractions)) == ("group-sequential", 1)
    assert made.looks.fractions[-1] == pytest.approx(sum(made.health.units) / USERS)
    stored = Readout.model_validate(day.registry.readouts("variety")[-1].verdict)
    assert stored == made == stored.reproduced()

    assert ship(day, "variety", "me") == made
    live = LiveExperiments.read(day.workspace.live)
    assert (live.experiments, live.launched) == ((), {"weights.diversity": 0.4})
    run_ = next(r for r in day.registry.experiments() if r.name == "variety")
    assert [change.state for change in run_.history] == ["draft", "running", "launched"]
    assert run_.history[-1].reason.startswith("treatment: Ship treatment")
    with pytest.raises(NotToShip, match="which is launched"):
        ship(day, "variety", "me")
    assert (made, True) in last_readouts(day)


def test_a_harmful_test_is_rolled_back_by_its_guardrail(copied_day, folder):
    day, at = copied_day, copied_day.as_of + timedelta(hours=3)
    declare(folder, "harmful", day.as_of)
    start_experiment(day, "harmful", at, "me", folder)
    run(day, "harmful", at, FIRST + 100_000 + np.arange(USERS), lift=1.3, share=0.5)
    seen = watch_experiment(day, "harmful", at + 9 * DAYS, "watch")
    assert seen.roll_back
    found = next(w.estimate for w in seen.guardrails)
    assert found.relative == pytest.approx(0.5 / 0.8 - 1, abs=0.08)
    assert seen.sentence.startswith("Roll back: any_play_1d is surely worse in treatment, by ")
    assert "harmful" not in {e.name for e in LiveExperiments.read(day.workspace.live).experiments}
    run_ = next(r for r in day.registry.experiments() if r.name == "harmful")
    assert (run_.state, run_.history[-1].reason) == (RunState.KILLED, seen.sentence)
    assert run_.history[-1].by == "watch"
    assert day.registry.readouts("harmful")[-1].verdict["verdict"] == "stop"


def test_a_test_that_was_stopped_to_wait_for_its_verdict_still_ships_what_was_pinned(copied_day, folder):
    day, at = copied_day, copied_day.as_of + timedelta(hours=4)
    declare(folder, "late", day.as_of)
    text = (folder / "late.yaml").read_text()
    (folder / "late.yaml").write_text(text.replace("0.4}}", "0.4, ranker: ranker@champion}}"))
    before = LiveExperiments.read(day.workspace.live).launched
    start_experiment(day, "late", at, "me", folder)
    run(day, "late", at, FIRST + 500_000 + np.arange(USERS), lift=1.3)
    made = readout(day, "late", at + 9 * DAYS)
    stop_experiment(day, "late", "me", "the verdict is for the next meeting")
    assert (made, False) in last_readouts(day)
    assert ship(day, "late", "me") == made
    launched = {"weights.diversity": 0.4, "ranker": day.registry.get("ranker@champion").ref}
    assert LiveExperiments.read(day.workspace.live).launched == {**before, **launched}
    states = [change.state for change in day.registry.experiments(["late"])[-1].history]
    assert states == ["draft", "running", "stopped", "launched"]

    start_experiment(day, "late", at, "me", folder)
    stop_experiment(day, "late", "me")
    with pytest.raises(NotToShip, match="it was not read out"):
        ship(day, "late", "me")
    conclude_experiment(day, "late", RunState.KILLED, "me", "nobody asks for it any more")
    assert (made, False) in last_readouts(day)


def test_a_hold_out_measures_what_was_launched_since(copied_day, folder):
    """Everyone who is not held out watches 8 % longer; 3 x 3,000 members are enough to see that it is read, not to be sure."""
    day, at = copied_day, copied_day.as_of + timedelta(hours=5)
    (folder / "holdouts.yaml").write_text(
        f"holdouts:\n  apart: {{held_out: 0.3, winners_only: 0.3, start: {day.as_of:%Y-%m-%d}, end: {day.as_of + 90 * DAYS:%Y-%m-%d}}}\n"
    )
    start_holdout(day, "apart", at, folder)
    units = FIRST + 200_000 + np.arange(USERS)
    arms = shown(day, at, units)
    lift = np.array([1.0 if of["apart"] == "held-out" else 1.3 for of in arms])
    played(day, at, units, np.random.default_rng(1).gamma(4, 15, USERS) * lift, np.ones(USERS, bool))
    found = holdout_readout(day, "apart", ["minutes_7d"], at + 9 * DAYS, folder)
    assert found.broken is None
    e = found.effects[0].estimate
    assert e.relative_low <= 0.3 <= e.relative_high
    assert e.p_value < 1e-6
    assert {of["apart"] for of in arms} == {"held-out", "winners-only", EVERYONE}
    assert end_holdout(day).name == "apart"
    assert LiveExperiments.read(day.workspace.live).holdout is None


def test_what_a_hold_out_could_tell_is_known_before_it_begins(copied_day, folder):
    """Larger groups tell smaller effects: by √2 where both are twice as large."""
    text = "holdouts:\n  small: {held_out: 0.05, winners_only: 0.05, start: 2026-01-01, end: 2026-04-01}\n"
    (folder / "holdouts.yaml").write_text(
        text + "  large: {held_out: 0.1, winners_only: 0.1, start: 2026-01-01, end: 2026-04-01}\n"
    )
    small, large = (plan_holdout(copied_day, name, ["minutes_7d"], folder) for name in ("small", "large"))
    assert small["minutes_7d"] == pytest.approx(large["minutes_7d"] * np.sqrt(2))


def test_live_experiments_are_scanned_for_interactions(copied_day, folder):
    day, at = copied_day, copied_day.as_of + timedelta(hours=7)
    declare(folder, "one", day.as_of)
    text = (
        (folder / "one.yaml")
        .read_text()
        .replace("name: one", "name: other")
        .replace("layer: ranking", "layer: artwork")
    )
    (folder / "other.yaml").write_text(text.replace("weights.diversity: 0.4", "artwork_policy: uniform"))
    start_experiment(day, "one", at - timedelta(hours=1), "me", folder)
    shown(
        day, at - timedelta(minutes=30), FIRST + 390_000 + np.arange(USERS)
    )  # before the other is there to be met
    start_experiment(day, "other", at, "me", folder)
    units = FIRST + 300_000 + np.arange(USERS)
    arms = shown(day, at, units)
    both = np.array([of["one"] == of["other"] == "treatment" for of in arms])
    played(
        day, at, units, np.random.default_rng(2).gamma(4, 15, USERS) * (1 + 0.5 * both), np.ones(USERS, bool)
    )
    met, found = scan(day, "minutes_7d", at + 9 * DAYS, folder)
    assert met == ()
    assert (found.pairs, found.unread) == (1, 0)
    assert {found.found[0].first, found.found[0].second} == {"one", "other"}
    for name in ("one", "other"):
        stop_experiment(day, name, "me")


def test_a_test_is_scoped_from_the_past_and_passes_the_check(copied_day, folder):
    draft = Draft(name="scoped", hypothesis="x", owner="me", layer="ranking", primary="minutes_7d",
                  guardrails={"plays_7d": 0.1, "completion_7d": None}, effect=0.1, parameters={"weights.diversity": 0.3})  # fmt: skip
    made = scope_experiment(copied_day, draft, folder)
    (folder / "scoped.yaml").write_text(made.yaml)
    assert problems(copied_day, folder) == ()
    assert {n.metric: n.effect for n in made.plan.needs} == {
        "minutes_7d": 0.1,
        "plays_7d": 0.1,
        "completion_7d": 0.02,
    }
    assert made.plan.units == max(n.units for n in made.plan.needs)


def test_a_draft_that_is_cut_down_by_hand_is_warned_of(copied_day, folder, command):
    draft = Draft(name="cut", hypothesis="x", owner="me", layer="ranking", primary="plays_1d",
                  guardrails={"minutes_1d": 0.2}, effect=0.15, parameters={"weights.diversity": 0.3})  # fmt: skip
    made = scope_experiment(copied_day, draft, folder)
    half = made.plan.units // 2
    (folder / "cut.yaml").write_text(
        made.yaml.replace(f"planned_units: {made.plan.units}", f"planned_units: {half}")
    )
    (problem,) = problems(copied_day, folder)
    assert (problem.severity, problem.field) == ("warning", "planned_units")
    assert problem.message.endswith(f"{made.plan.units:,} would do.")
    told = command(f"matinee experiments check --folder {folder}")
    assert f"cut.yaml:{problem.line}: warning: planned_units: {half:,} units" in told.stderr
    assert "1 warning" in told.stdout
    command(f"matinee experiments check --strict --folder {folder}", fails=True)
    (listed,) = json.loads(command(f"matinee experiments check --json --folder {folder}").stdout)
    assert (listed["severity"], listed["line"], listed["message"]) == (
        "warning",
        problem.line,
        problem.message,
    )


def test_the_past_is_gathered_once_until_the_lake_changes(copied_day, folder):
    metrics = [load(folder).metrics["plays_1d"]]
    found = history(copied_day, metrics)
    before = {kept.name for kept in copied_day.workspace.histories.iterdir()}
    assert history(copied_day, metrics) == found
    newest = max(copied_day.workspace.histories.iterdir(), key=lambda kept: kept.stat().st_mtime_ns)
    units = pq.read_table(newest / "units.parquet")
    doubled = units.set_column(2, "n", pa.array([2 * n for n in units["n"].to_pylist()]))
    pq.write_table(doubled, newest / "units.parquet")
    assert history(copied_day, metrics)[1].daily == tuple(2 * n for n in found[1].daily), "read, not gathered"
    units_of_nobody = FIRST + 900_000 + np.arange(1)
    played(copied_day, copied_day.as_of + 40 * DAYS, units_of_nobody, np.ones(1), np.ones(1, bool))
    assert history(copied_day, metrics) == found, "gathered anew, from events before the day"
    assert before < {kept.name for kept in copied_day.workspace.histories.iterdir()}


def test_of_a_workspace_without_events_power_is_not_told(copied_day, folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("MATINEE_WORKSPACES", str(tmp_path_factory.mktemp("empty")))
    declare(folder, "unseen", copied_day.as_of)
    text = (folder / "unseen.yaml").read_text().replace("layer: ranking", "layer: ranking\neffect: 0.02")
    (folder / "unseen.yaml").write_text(text)
    with opened("world") as day:
        (note,) = problems(day, folder)
    assert note.severity == "note"
    assert note.message.startswith("power was not checked: nobody was shown anything in the 14 days before")


def test_the_commands_say_the_same(command, copied_day, folder, tmp_path):
    day, at = copied_day, copied_day.as_of + timedelta(hours=9)
    declare(folder, "told", day.as_of)
    start_experiment(day, "told", at, "me", folder)
    run(day, "told", at, FIRST + 400_000 + np.arange(USERS), lift=1.3)
    when = f"{at + 9 * DAYS:%Y-%m-%dT%H:%M}"
    page, text = tmp_path / "page.html", tmp_path / "page.md"
    said = command(
        f"matinee experiments readout told --as-of {when} --html {page} --markdown {text} --json"
    ).stdout
    verdict = json.loads(said)
    assert verdict["verdict"] == "ship"
    assert verdict["sentence"].split(":")[0] in text.read_text()
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert "No guardrail is surely worse" in command(f"matinee experiments watch told --as-of {when}").stdout
    assert "launched treatment" in command("matinee experiments ship told").stdout
    shown = command("matinee experiments show told").stdout
    assert re.findall(r"^│ (draft|running|launched|stopped|killed) ", shown, re.MULTILINE) == [
        "draft", "running", "launched",
    ]  # fmt: skip
    assert verdict["sentence"].split(":")[0] in shown
    kept = json.loads(command("matinee experiments show told --json").stdout)
    assert kept["runs"][0]["arms"][1]["bindings"] == [
        {"parameter": "weights.diversity", "version": None, "value": 0.4}
    ]
    assert [one["verdict"] for one in kept["readouts"]] == [verdict]
    listed = json.loads(command("matinee experiments list --state launched --json").stdout)
    assert "told" in {one["name"] for one in listed}
    assert {one["state"] for one in listed} == {"launched"}
    assert '"told"' not in command("matinee experiments list --state running --json").stdout


def test_commands_over_all_experiments(command, copied_day, folder):
    declare(folder, "told", copied_day.as_of)
    when = f"{copied_day.as_of + 9 * DAYS:%Y-%m-%d}"
    assert (
        "no hold-out 'x'"
        in command(f"matinee experiments hold-out start x --folder {folder}", fails=True).stderr
    )
    told = command(f"matinee experiments overlap --folder {folder} --as-of {when}").stdout
    assert "pairs can meet" in told


@pytest.mark.parametrize(
    ("name", "lift", "share", "outcome", "state", "reason"),
    [
        pytest.param("harms", 1.3, 0.5, "killed", RunState.KILLED, "Roll back: any_play_1d", id="harm"),
        pytest.param("wins", 1.3, 0.8, "shipped", RunState.LAUNCHED, "treatment: Ship", id="win"),
        pytest.param("nothing", 1.0, 0.8, "inconclusive", RunState.STOPPED, "inconclusive: ", id="nothing"),
    ],
)
def test_a_simulation_ends_an_experiment_by_the_products_watch_ship_and_stop(
    copied_day, folder, name, lift, share, outcome, state, reason
):
    """What harms is rolled back at the first look after a whole day; what wins waits for its declared end."""
    day, at = copied_day, copied_day.as_of + timedelta(hours=11)
    declare(folder, name, day.as_of)
    programme = Programme(day, (Trial(experiment=load(folder).experiments[name], ends=9),), 14)
    assert programme.declare(0) is None
    assert programme.start(0, at)
    run(day, name, at, FIRST + 500_000 + 10_000 * len(name) + np.arange(USERS), lift=lift, share=share)
    programme.look(2, at + 2 * DAYS)
    assert [one.outcome for one in programme.ended] == (["killed"] if outcome == "killed" else [])
    programme.look(9, at + 9 * DAYS)
    (ended,) = programme.ended
    assert (ended.outcome, ended.day) == (outcome, 2 if outcome == "killed" else 9)
    assert (programme.live, [number for number, _ in programme.watched]) == ({}, [2])
    assert name not in {e.name for e in LiveExperiments.read(day.workspace.live).experiments}
    run_ = next(r for r in day.registry.experiments() if r.name == name)
    assert run_.state is state
    assert run_.history[-1].reason.startswith(reason)
    assert day.registry.readouts(name)[-1].verdict["sentence"] == ended.readout.sentence
