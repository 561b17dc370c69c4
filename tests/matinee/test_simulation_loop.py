"""The closed loop on the tiny world: what members do comes back as events, features, versions and read-outs. Simulated."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from html import escape

import pytest
from rich.console import Console

from experiments.config import EVERYONE, HELD_OUT, WINNERS_ONLY
from experiments.live import LiveExperiments
from feature_repo.snapshot import current
from matinee.context import latest, load_world, present
from matinee.programme import holdout_readout
from matinee.progress import Stages
from matinee.recommending import known_users
from matinee.simulation.config import SimulationConfig, Trial
from matinee.simulation.designs import ALLURING, CONTROL, measured, more_plays, varied, weights_test
from matinee.simulation.loop import simulate
from matinee.simulation.pages import in_process
from matinee.simulation.report import Findings, as_json, write
from matinee.simulation.sandbox import shelves
from matinee.simulation.showings import log_since
from matinee.simulation.state import Interrupted, begin_day, resume
from models.artwork import ArtworkPolicy
from models.objective import ObjectiveWeights
from registry import RunState
from serving.deadline import Deadline, Stopwatch
from serving.engines import Asked
from serving.exposure_table import read
from serving.selection import rank, retrieve

pytestmark = pytest.mark.slow
SIZE = 12


def quiet() -> Stages:
    return Stages(Console(quiet=True))


@pytest.fixture(scope="module")
def lived(a_day, environment, tmp_path_factory):
    """Two days of the tiny world with an experiment and a hold-out."""
    import shutil

    from matinee.session import opened
    from matinee.settings import Settings

    root = tmp_path_factory.mktemp("simulated")
    shutil.copytree(a_day, root / a_day.name)
    settings = Settings(workspaces=root, world="tiny", threads=1, source="world")
    with opened(settings=settings) as day:
        arms = {CONTROL: ObjectiveWeights(), "alluring": ALLURING}
        experiment = weights_test(
            "alluring-but-alike", arms, more_plays(2), "More plays.", day.as_of, day.as_of + timedelta(days=9)
        )
        config = SimulationConfig(
            days=2, page_size=SIZE, retrain_every=0, holdout=0.2,
            trials=(Trial(experiment=experiment, ends=2),),
        )  # fmt: skip
        yield simulate(day, config, quiet(), lambda _: None)


def held_out(lived):
    """What the product's own read-out says of the run's hold-out."""
    plays = measured(2)["plays"].name
    return holdout_readout(
        lived.ended, lived.holdout.name, [plays], lived.ended.as_of, lived.programme.folder
    )


def test_every_page_is_logged_once_and_every_play_is_of_a_page_that_was_shown(lived):
    log = read(lived.ended.workspace.exposures)
    shown = Counter(log["request_id"].to_pylist())
    assert len(shown) == sum(one.traffic.sessions for one in lived.days) > 50
    assert set(shown.values()) == {SIZE}
    assert all(sum(one.traffic.by_source.values()) == one.traffic.sessions for one in lived.days)
    with lived.ended.desk.events() as connection:
        connection.register("log", log)
        plays, known, impressions = connection.sql(f"""
            SELECT count(*), count(l.impression_id), (SELECT count(*) FROM impressions SEMI JOIN log USING (impression_id))
            FROM plays p LEFT JOIN log l USING (impression_id) WHERE p.event_timestamp >= '{lived.began.as_of}'
              AND p.impression_id IN (SELECT impression_id FROM log)""").fetchall()[0]
    assert plays == known == sum(one.traffic.plays for one in lived.days)
    assert impressions == len(log)


def test_a_page_knows_nothing_of_its_own_day(lived):
    log = read(lived.ended.workspace.exposures)
    for as_of, at in zip(log["as_of"].to_pylist(), log["event_timestamp"].to_pylist(), strict=True):
        assert as_of <= at


def test_nobody_is_shown_again_what_they_played_since_the_run_began(lived):
    """Within a day as well: plays are pushed online between a member's visits. The product keeps a member's last plays, not all of them."""
    with lived.ended.desk.events() as connection:
        connection.register("log", read(lived.ended.workspace.exposures))
        again = connection.sql(f"""
            SELECT count(*) FROM log l JOIN plays p USING (user_id, title_id)
            WHERE p.created_timestamp < l.event_timestamp AND p.event_timestamp >= '{lived.began.as_of}'""").fetchall()
    assert again == [(0,)]


def test_the_products_hold_out_sets_members_apart_and_they_keep_the_versions_of_the_first_day(lived):
    log = read(lived.ended.workspace.exposures)
    arms = [{one["experiment"]: one["arm"] for one in of} for of in log["arms"].to_pylist()]
    groups = Counter(of[lived.holdout.name] for of in arms)
    assert set(groups) == {HELD_OUT, WINNERS_ONLY, EVERYONE}
    assert all(("alluring-but-alike" in of) == (of[lived.holdout.name] == EVERYONE) for of in arms)
    live = LiveExperiments.read(lived.ended.workspace.live)
    assert live.holdout.baseline == {"retriever": "retriever/1", "ranker": "ranker/1", "artwork": "artwork/1"}
    drawn_with = {of[lived.holdout.name]: set() for of in arms}
    for of, version in zip(arms, log["artwork"].to_pylist(), strict=True):
        drawn_with[of[lived.holdout.name]].add(version)
    assert drawn_with[HELD_OUT] == {"artwork/1"}
    assert drawn_with[WINNERS_ONLY] == drawn_with[EVERYONE] == {"artwork/1", "artwork/2"}
    made = holdout_readout(
        lived.ended,
        lived.holdout.name,
        [measured(2)["plays"].name],
        lived.ended.as_of,
        lived.programme.folder,
    )
    users = {group: set() for group in groups}
    for user, of in zip(log["user_id"].to_pylist(), arms, strict=True):
        users[of[lived.holdout.name]].add(user)
    assert {arm.arm: arm.units for arm in made.statistics.arms} == {g: len(u) for g, u in users.items()}


def test_the_day_after_has_features_a_snapshot_and_a_choice_of_images_that_learnt(lived):
    assert current(lived.ended.workspace.online).startswith(f"{lived.ended.as_of:%Y-%m-%d}")
    champion = lived.ended.registry.get("artwork")
    assert lived.days[-1].learnt == (champion.ref,)
    folder = lived.ended.registry.fetch(champion.ref, lived.ended.workspace.root / "seen")
    assert len(ArtworkPolicy.load(folder).absorbed) == 3  # the training log, then a day's each
    measured = {metric.key: metric.value for metric in champion.metrics}
    assert measured["impressions"] > 100
    assert 0 < measured["log_loss"] < 1


def test_the_experiment_of_the_loop_was_read_out_ended_and_recorded(lived):
    (ended,) = lived.trials
    assert ended.outcome in {"killed", "shipped", "inconclusive", "broken"}
    assert (
        lived.ended.registry.readouts("alluring-but-alike")[-1].verdict["sentence"] == ended.readout.sentence
    )
    (run,) = [run for run in lived.ended.registry.experiments() if run.name == "alluring-but-alike"]
    said = {"killed": RunState.KILLED, "shipped": RunState.LAUNCHED}
    assert run.state is said.get(ended.outcome, RunState.STOPPED)
    assert ended.outcome == "shipped" or ended.readout.sentence in run.history[-1].reason
    assert [day for day, _ in lived.programme.watched] == [1]


def test_the_report_holds_all_of_it_says_that_it_is_simulated_and_fetches_nothing(lived, tmp_path):
    held = held_out(lived)
    found = Findings(lived, holdout=held)
    page = write(found, tmp_path)
    text = page.read_text()
    assert "SIMULATED" in text
    assert "alluring-but-alike" in text
    assert escape(lived.trials[0].readout.sentence) in text
    assert escape(held.sentence) in text
    assert all(f"{arm.arm} {arm.units:,}" in text for arm in held.statistics.arms)
    assert "http://" not in text
    assert "https://" not in text
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["simulated"] is True
    assert [day["sessions"] for day in told["days"]] == [one.traffic.sessions for one in lived.days]
    assert json.dumps(as_json(found), default=str)


def test_a_simulated_workspace_goes_on_from_where_it_was(lived):
    day, state = lived.ended, resume(lived.ended.workspace.simulation, lived.world)
    assert state.at == day.as_of == lived.began.as_of + timedelta(days=2)
    assert latest(day.settings, day.workspace) == present(day) == state.at
    assert state.audience.watched.shape == (200, 600)


def test_what_the_sandbox_puts_on_a_page_is_what_is_served(lived):
    """The oracle of every scenario on many lives: same titles in the same order as the served core, for any weights."""
    day = lived.ended
    users = known_users(day)[:12]
    with in_process(replace(day, as_of=day.as_of + timedelta(minutes=1)), SIZE) as pager:
        at = day.as_of + timedelta(hours=20)
        live = pager.core.source.current()
        made = shelves(live, live.plan(users[0]), users, at).pages(live.manifest.defaults.weights, SIZE)
        for user, row in zip(users, made, strict=True):
            page = pager.core.page(user, at)
            assert page.source == "ranked"
            assert [title.title_id for title in page.titles] == row.tolist()
        diverse = shelves(live, live.plan(users[0]), users, at).pages(varied(0.3), SIZE)
        for user, row in zip(users, diverse, strict=True):
            asked = Asked(live, replace(live.plan(user), weights=varied(0.3)), user, SIZE, 200, at)
            watch = Stopwatch(Deadline.within(1_000, lambda: 0.0))
            assert rank(asked, retrieve(asked, watch), watch).title_ids.tolist() == row.tolist()
        pager.exposures.commit()
        other = shelves(live, live.plan(users[0]), users, at).pages(ALLURING, SIZE)
    assert (other != made).any()
    assert log_since(day, day.as_of).num_rows == 12 * SIZE


@pytest.mark.parametrize(("every", "after"), [(7, [6]), (5, [4, 9]), (0, []), (14, [])])
def test_models_are_trained_where_days_are_left_for_them_to_serve(every, after):
    config = SimulationConfig(days=14, retrain_every=every)
    assert [day for day in range(14) if config.retrains_after(day)] == after


def test_a_simulation_that_was_killed_within_a_day_is_not_gone_on_with(lived, tmp_path):
    begin_day(tmp_path, lived.began.as_of)
    with pytest.raises(Interrupted, match="interrupted while it lived 2026-01-15"):
        resume(tmp_path, load_world(lived.began))
