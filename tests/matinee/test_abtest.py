"""Simulated members use the served page of a built Bento, over HTTP, and the test is read out."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from experiments.assignment import Assigner
from experiments.decision import Verdict
from experiments.live import LiveExperiments
from matinee.abtest import members, run_sessions
from matinee.context import load_world
from matinee.experimenting import outcomes, readout, start_experiment, stop_experiment
from matinee.progress import Stage, Stages
from matinee.session import console
from serving.exposure_table import read

pytestmark = pytest.mark.slow
EXPERIMENT = "homepage-multi-objective"
SIZE = 12


@pytest.fixture
def tested(copied_day):
    """One round of sessions of sixty members on the served page."""
    at = copied_day.as_of
    start_experiment(copied_day, EXPERIMENT, at, by="test")
    users = members(copied_day, 60)
    sessions = run_sessions(
        copied_day, load_world(copied_day), at, users, SIZE, Stage("sessions", Stages(console))
    )
    yield users, sessions
    stop_experiment(copied_day, EXPERIMENT, by="test")


def test_a_test_on_the_served_page_is_logged_once_and_read_out_from_the_log(copied_day, tested):
    users, sessions = tested
    assert sessions.by_source == {"ranked": 60}

    log = read(copied_day.workspace.exposures)
    shown = Counter(zip(log["user_id"].to_pylist(), log["position"].to_pylist(), strict=True))
    assert shown == Counter({(user, place): 1 for user in users.tolist() for place in range(SIZE)})
    assert min(log["artwork_propensity"].to_pylist()) > 0
    assert all(moment >= copied_day.as_of for moment in log["event_timestamp"].to_pylist())

    assigner = Assigner(LiveExperiments.read(copied_day.workspace.live))
    for user, arms in zip(log["user_id"].to_pylist(), log["arms"].to_pylist(), strict=True):
        assert [(a["experiment"], a["arm"]) for a in arms] == list(assigner.assign(user).arms)

    by_hand: dict[int, float] = dict.fromkeys(users.tolist(), 0.0)
    with copied_day.desk.events() as connection:
        plays = connection.execute("SELECT impression_id, watch_minutes FROM plays").fetchall()
    whose = dict(zip(log["impression_id"].to_pylist(), log["user_id"].to_pylist(), strict=True))
    for impression, minutes in plays:
        if impression in whose:
            by_hand[whose[impression]] += minutes
    found = outcomes(copied_day, log)
    counted = dict(zip(found["user_id"].to_pylist(), found["watch_minutes"].to_pylist(), strict=True))
    assert counted == pytest.approx(by_hand)
    assert sum(found["plays"].to_pylist()) == sessions.plays
    assert sum(found["renewals_due"].to_pylist()) == 60
    assert sum(found["renewals"].to_pylist()) == sessions.renewals

    made = readout(copied_day, EXPERIMENT, copied_day.as_of + timedelta(days=1))
    assert sum(made.health.units) == 60
    assert made.verdict in set(Verdict)
    assert made.sentence
    assert made.reproduced() == made
    assert copied_day.registry.readouts(EXPERIMENT)[-1].verdict["sentence"] == made.sentence
