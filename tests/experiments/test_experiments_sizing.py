"""Whether a declared experiment can find its effect: what is said, where, and that the fix that is named works."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.generated import write_folder
from experiments.power import Baseline, plan
from experiments.reading import SHIPPED, load
from experiments.scoping import Arrivals
from experiments.sizing import History, asked, power_problems

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BASELINES = {
    "minutes_7d": Baseline(metric="minutes_7d", level=60.0, variance=900.0, variance_cut=None, units=5_000),
    "plays_7d": Baseline(metric="plays_7d", level=10.0, variance=40.0, variance_cut=None, units=5_000),
}
PAST = History(BASELINES, Arrivals(daily=(2_000,) * 14))
TEXT = """\
name: variety
layer: ranking
owner: me
hypothesis: More variety, more minutes.
start: 2026-03-01
end: 2026-03-31
effect: 0.02
planned_units: 30000
rollout: 1.0
arms:
  control: {share: 0.5}
  treatment: {share: 0.5, parameters: {weights.diversity: 0.4}}
metrics:
  primary: minutes_7d
  guardrails: [{metric: plays_7d, margin: 0.05}]
"""


@pytest.fixture
def declared(folder):
    """A book of one experiment, `TEXT` with some lines put otherwise."""
    folder("metrics.yaml", (SHIPPED / "metrics.yaml").read_text())

    def declare(**fields):
        lines = TEXT[: TEXT.index("metrics:")].splitlines() if "metrics" in fields else TEXT.splitlines()
        lines = [line for line in lines if line.split(":")[0] not in fields]
        more = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return load(folder("variety.yaml", "\n".join([*lines[:4], *more, *lines[4:]]) + "\n"))

    return declare


def needed(book, shares=(0.5, 0.5), treatments=1):
    """The size by the planner itself, which tests of its own hold to statsmodels."""
    metrics, e = book.experiments["variety"].metrics, book.experiments["variety"]
    return plan(
        (metrics.primary, BASELINES["minutes_7d"]), [(metrics.guardrails[0], BASELINES["plays_7d"])],
        e.effect, shares, e.power, e.looks, treatments=treatments,
    ).units  # fmt: skip


def found(book, past=PAST, at=NOW):
    return power_problems(book, {7: past}, at)


def test_a_test_of_the_planned_size_and_duration_is_not_spoken_of(declared):
    """22 days of 2,000 new members bring more than is planned, and the plan more than is needed."""
    book = declared()
    assert 20_000 < needed(book) < 30_000
    assert found(book) == ()


def test_a_size_that_is_too_small_is_named_with_file_line_and_what_would_do(declared):
    book = declared(planned_units=9_000)
    (problem,) = found(book)
    assert (problem.file, problem.severity, problem.field) == ("variety.yaml", "warning", "planned_units")
    assert problem.line == 5, "the first line behind the hypothesis"
    size = needed(book)
    assert problem.message.endswith(f" {size:,} would do.")
    assert found(declared(planned_units=size)) == ()
    told = f"{problem.file}:5: warning: planned_units: 9,000 units find 2 % and clear every guardrail "
    assert str(problem).startswith(told)


def test_what_a_size_could_tell_shrinks_with_its_root(declared):
    """A quarter of the needed units tells twice the effect: errors go with 1/√n."""
    size = needed(declared())
    (problem,) = found(declared(planned_units=-(-size // 4)))
    could, meant = re.search(r"tell ([\d.]+) % in minutes_7d \(effect ([\d.]+) %\)", problem.message).groups()
    assert float(could) == pytest.approx(2 * float(meant), rel=0.01)


def test_dates_that_bring_too_few_are_named_and_either_way_out_works(declared):
    """15 days of 2,000 at a rollout of .5 bring 15,000; twice the rollout would bring enough."""
    book = declared(end="2026-03-24", rollout=0.5, planned_units=None)
    (problem,) = found(book)
    assert (problem.field, problem.severity) == ("end", "warning")
    assert "2026-03-01 to 2026-03-24 brings about 15,000 units" in problem.message
    weeks, end = re.search(r"an end (\d+) weeks? later, ([\d-]+)", problem.message).groups()
    days = -(-2 * needed(book) // 2_000)
    assert datetime.fromisoformat(end) == datetime(2026, 3, 1) + timedelta(days=days + 7 + 1)
    assert int(weeks) == -(-(datetime.fromisoformat(end) - datetime(2026, 3, 24)).days // 7)
    assert found(declared(end=end, rollout=0.5, planned_units=None)) == ()
    rollout = re.search(r"a rollout of ([\d.]+)\.", problem.message)[1]
    assert found(declared(end="2026-03-24", rollout=rollout, planned_units=None)) == ()
    third_less = f"{float(rollout) / 1.5:.2f}"  # what is split evenly over two tests leaves some room
    assert found(declared(end="2026-03-24", rollout=third_less, planned_units=None)) != ()


def test_a_slot_is_a_part_of_the_traffic_as_a_rollout_is(declared):
    (by_slot,) = found(declared(end="2026-03-24", slot="[0.5, 1]", planned_units=None))
    assert "brings about 15,000 units" in by_slot.message
    assert "a rollout of" not in by_slot.message, "it is whole"


def test_dates_in_which_no_window_is_over_tell_nothing(declared):
    (problem,) = found(declared(end="2026-03-08"))
    assert problem.field == "end"
    assert "brings about 0 units, which tell nothing." in problem.message


def test_traffic_that_takes_years_is_no_way_out(declared):
    slow = History(BASELINES, Arrivals(daily=(2_000, *[10] * 13)))
    (problem,) = found(declared(), slow)
    assert re.search(r"takes until 20[3-9]\d-.*larger effect, or allow wider margins", problem.message)
    (problem,) = found(declared(), History(BASELINES, Arrivals(daily=(2_000, *[0] * 13))))
    assert "takes for ever" in problem.message


def test_a_power_asked_for_is_the_power_that_counts(declared):
    size = needed(declared(power=0.6))
    assert found(declared(power=0.6, planned_units=size)) == ()
    (problem,) = found(declared(power=0.9, planned_units=size))
    assert problem.field == "planned_units"
    assert problem.message.endswith(f"{needed(declared(power=0.9)):,} would do.")


def test_of_several_treatments_the_smallest_decides_and_alpha_is_split(declared, folder):
    """Shares .5, .3 and .2, two treatments."""
    more = "  treatment: {share: 0.3, parameters: {weights.diversity: 0.4}}\n  other: {share: 0.2}\n"
    text = re.sub(r"  treatment: .*\n", more, TEXT).replace("planned_units: 30000", "planned_units: 9000")
    (problem,) = found(load(folder("variety.yaml", text)))
    size = needed(declared(), (0.5, 0.2), treatments=2)
    assert size > 1.5 * needed(declared())
    assert problem.message.endswith(f" {size:,} would do.")


def test_only_what_the_size_could_not_tell_is_listed(declared):
    """A guardrail with a margin of half asks for next to nothing."""
    book = declared(
        planned_units=9_000, metrics="{primary: minutes_7d, guardrails: [{metric: plays_7d, margin: 0.5}]}"
    )
    (problem,) = found(book)
    assert "minutes_7d (effect 2 %)" in problem.message
    assert "plays_7d" not in problem.message


@pytest.mark.parametrize(
    ("fields", "past", "said"),
    [
        pytest.param({"effect": None}, PAST, "it states no effect", id="no effect"),
        pytest.param({"start": "2026-01-01", "end": "2026-03-01"}, PAST, "it is over since 2026-03-01", id="over"),
        pytest.param({}, "nobody was shown anything.", "nobody was shown anything", id="no history"),
        pytest.param({}, History({**BASELINES, "plays_7d": "plays_7d is 0."}, PAST.arrivals), "plays_7d is 0", id="no baseline"),
    ],
)  # fmt: skip
def test_where_the_past_says_nothing_that_is_what_is_said_and_no_number(declared, fields, past, said):
    (problem,) = found(declared(planned_units=10, **fields), past)
    assert problem.severity == "note"
    assert problem.message.startswith(f"power was not checked: {said}")
    assert "%" not in problem.message


def test_a_metric_defined_in_the_experiment_itself_has_no_past_here(declared, folder):
    text = TEXT.replace("primary: minutes_7d", "primary: {name: minutes_7d, value: minutes_7d}")
    (problem,) = found(load(folder("variety.yaml", text)))
    assert "minutes_7d is not as metrics.yaml defines it" in problem.message
    assert asked(load(folder("variety.yaml", text)), NOW) == {}


def test_targeting_leaves_the_duration_open_and_says_so(declared):
    (note,) = found(declared(targeting="{country: [NO]}"))
    assert (note.severity, note.field) == ("note", "targeting")
    warning, note = found(declared(targeting="{country: [NO]}", planned_units=9_000))
    assert (warning.field, note.field) == ("planned_units", "targeting")


def test_the_past_is_asked_once_for_250_experiments(tmp_path):
    write_folder(tmp_path)
    book = load(tmp_path)
    assert asked(book, NOW) == {14: ("minutes_7d", "plays_7d", "back_in_week_2")}
    assert asked(book, datetime(2026, 5, 1, tzinfo=UTC)) == {}


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.integers(1, 3_000))
def test_the_days_that_units_take_are_the_fewest_that_bring_them(daily, units):
    arrivals = Arrivals(daily=tuple(daily))
    days = arrivals.days_for(units)
    if days is None:
        assert arrivals.units_in(10**6) < units
    else:
        assert arrivals.units_in(days) >= units
        assert arrivals.units_in(days - 1) < units
