"""Starting, ramping and stopping: what is live is pinned and never shares a unit."""

from datetime import UTC, datetime, timedelta

import pytest

from experiments.config import ExperimentBook
from experiments.live import CannotStart, LiveExperiments, NotLive, ramp, start, stop
from experiments.reading import SHIPPED, InvalidConfig, load

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEMO = "homepage-multi-objective"


@pytest.fixture
def book():
    return load(SHIPPED)


def with_experiments(book, *experiments):
    return ExperimentBook(book.layers, book.parameters, {e.name: e for e in experiments})


def champion_is(version):
    return {"ranker@champion": version}.__getitem__


def started(book, name=DEMO, live=LiveExperiments()):  # noqa: B008  (a frozen value)
    return start(live, book, name, champion_is("ranker/7"), NOON)


def test_an_arm_keeps_its_version_when_the_alias_moves(book):
    live = started(book)
    assert [arm.parameters["ranker"] for arm in live.named(DEMO).arms] == ["ranker/7", "ranker/7"]
    assert live.references == ("ranker/7",)
    later = start(stop(live, DEMO), book, DEMO, champion_is("ranker/8"), NOON)
    assert later.references == ("ranker/8",)
    assert live.references == ("ranker/7",)


def test_other_parameters_are_kept_as_they_are(book, demo):
    arm = started(book).named(DEMO).arms[1]
    assert {k: v for k, v in arm.parameters.items() if k != "ranker"} == {
        k: v for k, v in demo.arms["treatment"].parameters.items() if k != "ranker"
    }


def test_arms_fill_all_buckets_without_gap(book, varied):
    thirds = varied(arms={"control": {"share": 1 / 3}, "a": {"share": 1 / 3}, "b": {"share": 1 / 3}})
    arms = started(with_experiments(book, thirds)).named(DEMO).arms
    assert [(arm.low, arm.high) for arm in arms] == [(0, 3333), (3333, 6667), (6667, 10_000)]


def test_what_runs_cannot_start_again(book):
    with pytest.raises(CannotStart, match="runs already"):
        started(book, live=started(book))


def test_a_live_experiment_keeps_its_units_to_itself(book, demo, varied):
    live = started(book)
    both = with_experiments(book, demo, varied(name="rival"))
    with pytest.raises(CannotStart, match="'rival' and the live 'homepage-multi-objective' share units"):
        started(both, "rival", live)
    parted = with_experiments(book, varied(slot=(0, 0.5)), varied(name="rival", slot=(0.5, 1)))
    assert len(started(parted, "rival", started(parted)).experiments) == 2


@pytest.mark.parametrize(
    ("offset", "allowed"),
    [
        pytest.param(timedelta(0), True, id="at its start"),
        pytest.param(-timedelta(microseconds=1), False, id="just before"),
        pytest.param(timedelta(days=7), False, id="at its end"),
        pytest.param(timedelta(days=7, microseconds=-1), True, id="just before its end"),
    ],
)
def test_an_experiment_starts_within_its_dates(book, varied, offset, allowed):
    week = with_experiments(book, varied(start=NOON, end=NOON + timedelta(days=7)))
    if allowed:
        assert start(LiveExperiments(), week, DEMO, champion_is("ranker/7"), NOON + offset).experiments
    else:
        with pytest.raises(CannotStart, match="Change its dates"):
            start(LiveExperiments(), week, DEMO, champion_is("ranker/7"), NOON + offset)


def test_an_experiment_with_problems_does_not_start(book, varied):
    wrong = varied(arms={"control": {"share": 0.5, "parameters": {"rankr": "x/1"}}, "b": {"share": 0.5}})
    with pytest.raises(InvalidConfig, match="Did you mean 'ranker'"):
        started(with_experiments(book, wrong))


def test_a_reference_that_means_nothing_stops_the_start(book):
    with pytest.raises(LookupError):
        start(LiveExperiments(), book, DEMO, {}.__getitem__, NOON)


def test_a_name_nobody_declared_cannot_start(book):
    with pytest.raises(CannotStart, match="There is: homepage-multi-objective"):
        started(book, "homepage")


def test_a_rollout_only_grows(book, varied):
    live = started(with_experiments(book, varied(rollout=0.2)))
    assert ramp(live, DEMO, 0.2) == live
    assert ramp(live, DEMO, 1.0).named(DEMO).rollout == 10_000
    for share in (0.1, 1.1):
        with pytest.raises(ValueError, match=r"only grow, from 0\.2 to 1"):
            ramp(live, DEMO, share)


@pytest.mark.parametrize("act", [lambda live: stop(live, "x"), lambda live: ramp(live, "x", 1)])
def test_only_what_is_live_can_be_changed(book, act):
    with pytest.raises(NotLive, match="Live: homepage-multi-objective"):
        act(started(book))


def test_the_file_is_replaced_whole_and_read_back(book, tmp_path):
    path = tmp_path / "live" / "experiments.json"
    assert LiveExperiments.read(path) == LiveExperiments()
    started(book).write(path)
    assert LiveExperiments.read(path) == started(book)
    LiveExperiments().write(path)
    assert LiveExperiments.read(path) == LiveExperiments()
    assert [file.name for file in path.parent.iterdir()] == ["experiments.json"]
