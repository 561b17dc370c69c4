"""Metrics from events against counting by hand, tea-tasting and statsmodels."""

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
import tea_tasting as tt
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from experiments.daily import DailyStatistics
from experiments.definitions import DefinedMetric, Guardrail
from experiments.estimates import estimate, p_inferior, p_worse, unreadable
from experiments.gathering import NotDefined, gather
from experiments.quantiles import order_statistics_of

START = datetime(2026, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=60)
MINUTES = {"source": "plays", "sum": "watch_minutes"}
COMPLETED = {"source": "plays", "where": {"completed": [True]}}
ARMS = ("control", "treatment")
DAY = timedelta(days=1)


def defined(name="m", **fields):
    return DefinedMetric.model_validate(
        {"name": name, "kind": "mean", "of": MINUTES, "window_days": 7} | fields
    ).metric()


METRICS = {
    "mean": defined("mean"),
    "capped": defined("capped", cap=60),
    "winsorised": defined("winsorised", winsorise=0.9),
    "cuped": defined("cuped", covariate_days=14),
    "plays": defined("plays", of={"source": "plays"}),
    "ratio": defined("ratio", kind="ratio", of=COMPLETED, per={"source": "plays"}),
    "ratio_cuped": defined("ratio_cuped", kind="ratio", of=MINUTES, per={"source": "plays"}, covariate_days=14),
    "conversion": defined("conversion", kind="conversion", of=COMPLETED),
    "retention": defined("retention", kind="retention", of={"source": "plays"}, from_day=7, window_days=14),
    "quantile": defined("quantile", kind="quantile", quantile=0.75, resolution=0.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def events():
    """900 units exposed over five days, half to each arm, and what they did for four weeks around."""
    rng = np.random.default_rng(5)
    since = START + pd.to_timedelta(rng.integers(0, 5 * 86_400_000, 900), unit="ms")
    units = pd.DataFrame({"unit_id": np.arange(900), "arm": np.array(ARMS)[rng.integers(0, 2, 900)], "first_exposed_at": since, "arms": 1})  # fmt: skip
    keen = rng.gamma(2, 1, 900)
    who = rng.choice(
        1000, 9_000, p=np.append(keen, np.ones(100)) / (keen.sum() + 100)
    )  # a hundred were never exposed
    at = START + pd.to_timedelta(rng.integers(-20 * 86_400_000, 25 * 86_400_000, 9_000), unit="ms")
    plays = pd.DataFrame({"user_id": who, "watch_minutes": rng.gamma(1.5, 15, 9_000), "completed": rng.random(9_000) < 0.4, "event_timestamp": at})  # fmt: skip
    plays["created_timestamp"] = plays["event_timestamp"] + pd.Timedelta(seconds=1)
    return units, plays


def arrow(frame):
    """A frame as the lake would hold it: times in microseconds."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    times = {f.name: pa.timestamp("us", "UTC") for f in table.schema if pa.types.is_timestamp(f.type)}
    return table.cast(pa.schema([f.with_type(times.get(f.name, f.type)) for f in table.schema]))


def connection(plays, **tables):
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    for name, table in {"plays": plays, **tables}.items():
        con.register(f"_{name}", arrow(table))
        con.execute(f"CREATE VIEW {name} AS SELECT * FROM _{name}")
    return con


def gathered(units, plays, metrics, as_of=AS_OF, **more):
    with connection(plays) as con:
        return gather(con, arrow(units), metrics, as_of, **more)


@pytest.fixture(scope="module")
def daily(events):
    return gathered(*events, tuple(METRICS.values()))


@pytest.fixture(scope="module")
def merged(daily):
    return {arm.arm: arm for arm in daily.statistics(tuple(METRICS.values()), ARMS, AS_OF).arms}


@pytest.fixture(scope="module")
def by_hand(events):
    """Each unit's values by pandas, unit by unit."""
    units, plays = events
    rows = []
    for unit in units.itertuples():
        theirs = plays[plays["user_id"] == unit.unit_id]
        age = theirs["event_timestamp"] - unit.first_exposed_at
        week, before = (
            theirs[(age >= 0 * DAY) & (age < 7 * DAY)],
            theirs[(age >= -14 * DAY) & (age < 0 * DAY)],
        )
        second = theirs[(age >= 7 * DAY) & (age < 14 * DAY)]
        rows.append({
            "arm": unit.arm, "mean": week["watch_minutes"].sum(), "cuped__before": before["watch_minutes"].sum(),
            "plays": float(len(week)), "plays__before": float(len(before)), "ratio": float(week["completed"].sum()),
            "conversion": float(week["completed"].any()), "retention": float(len(second) > 0),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["capped"] = table["mean"].clip(upper=60)
    table["winsorised"] = table["mean"].clip(upper=np.sort(table["mean"])[int(np.ceil(0.9 * 900)) - 1])
    table["quantile"] = (table["mean"] / 0.5).round() * 0.5
    return table


THEIRS = {
    "mean": tt.Mean("mean"), "capped": tt.Mean("capped"), "winsorised": tt.Mean("winsorised"),
    "cuped": tt.Mean("mean", "cuped__before"), "plays": tt.Mean("plays"), "ratio": tt.RatioOfMeans("ratio", "plays"),
    "ratio_cuped": tt.RatioOfMeans("mean", "plays", "cuped__before", "plays__before"),
    "conversion": tt.Mean("conversion"), "retention": tt.Mean("retention"),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_each_kind_equals_tea_tasting_on_values_counted_by_hand(name, merged, by_hand):
    """tea-tasting's Welch test, delta method and CUPED on pandas' own sums, to 1e-9."""
    theirs = tt.Experiment({"m": THEIRS[name]}, variant="arm").analyze(
        by_hand.assign(arm=by_hand["arm"] == "treatment")
    )["m"]
    found = estimate(METRICS[name], merged["control"], merged["treatment"], 0.05)
    assert found.control == pytest.approx(theirs.control, rel=1e-9)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (theirs.effect_size, theirs.effect_size_ci_lower, theirs.effect_size_ci_upper), rel=1e-9
    )
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.relative_low == pytest.approx(theirs.rel_effect_size_ci_lower, rel=1e-9)


@pytest.mark.parametrize("name", ["mean", "capped", "winsorised", "plays", "conversion", "retention"])
def test_means_equal_statsmodels(name, merged, by_hand):
    treatment, control = (
        DescrStatsW(by_hand.loc[by_hand["arm"] == arm, name].to_numpy()) for arm in ("treatment", "control")
    )
    compared = CompareMeans(treatment, control)
    found = estimate(METRICS[name], merged["control"], merged["treatment"], 0.05)
    assert found.p_value == pytest.approx(compared.ttest_ind(usevar="unequal")[1], rel=1e-9)
    assert (found.low, found.high) == pytest.approx(compared.tconfint_diff(usevar="unequal"), rel=1e-9)


def test_a_quantile_is_bounded_by_order_statistics(merged, by_hand):
    """Ranks n(q ± z √(q(1 - q)/n)) of the sorted values, by hand."""
    for arm in ARMS:
        values = np.sort(by_hand.loc[by_hand["arm"] == arm, "quantile"].to_numpy())
        n, half = len(values), 1.959963984540054 * np.sqrt(len(values) * 0.75 * 0.25)
        low, high = (values[int(np.ceil(n * 0.75 + side * half)) - 1] for side in (-1, 1))
        found = merged[arm].order["quantile"]
        assert (found.units, found.value) == (n, values[int(np.ceil(0.75 * n)) - 1])
        assert found.standard_error == pytest.approx((high - low) / (2 * 1.959963984540054), rel=1e-9)
    difference = estimate(METRICS["quantile"], merged["control"], merged["treatment"], 0.05)
    errors = [merged[arm].order["quantile"].standard_error for arm in ARMS]
    assert difference.high - difference.low == pytest.approx(
        2 * 1.959963984540054 * np.hypot(*errors), rel=1e-9
    )


@pytest.mark.parametrize(("direction", "factor", "side"), [("increase", 0.9, 1), ("decrease", 1.1, -1)])
def test_a_quantile_as_a_guardrail_is_tested_against_control_less_its_margin(merged, direction, factor, side):
    """z = side (t - f c) / √(s_t² + f² s_c²), f control's factor; worse is the other side without a margin."""
    fields = METRICS["quantile"].model_dump() | {"direction": direction, "margin": 0.1}
    guardrail = Guardrail.model_validate(fields)
    c, t = (merged[arm].order["quantile"] for arm in ARMS)
    z = side * (t.value - factor * c.value) / np.hypot(t.standard_error, factor * c.standard_error)
    found = p_inferior(guardrail, merged["control"], merged["treatment"])
    assert found == pytest.approx(scipy.stats.norm.sf(z), rel=1e-9)
    z = -side * (t.value - c.value) / np.hypot(t.standard_error, c.standard_error)
    assert p_worse(guardrail, merged["control"], merged["treatment"]) == pytest.approx(
        scipy.stats.norm.sf(z), rel=1e-9
    )


@pytest.mark.parametrize(("values", "quantile"), [([1.0, 2.0], 0.5), (np.arange(20.0), 0.99)])
def test_too_few_units_beyond_a_quantile_have_no_standard_error(values, quantile):
    assert order_statistics_of(np.asarray(values), quantile).standard_error is None


def test_days_add_up_to_the_whole(events, daily):
    """One scan a day, put together, is the scan of all days."""
    units, plays = events
    day = units["first_exposed_at"].dt.date
    parts = [gathered(units[day == d], plays, tuple(METRICS.values()), caps=daily.caps) for d in daily.days]
    together = DailyStatistics(
        *(
            pa.concat_tables([getattr(part, name) for part in parts])
            for name in ("units", "moments", "histograms", "tenures")
        ),
        caps=daily.caps,
    )
    one, other = (d.statistics(tuple(METRICS.values()), ARMS, AS_OF) for d in (daily, together))
    for a, b in zip(one.arms, other.arms, strict=True):
        assert (a.units, a.order) == (b.units, b.order)
        assert a.mean == pytest.approx(b.mean, rel=1e-12)
        assert a.variance == pytest.approx(b.variance, rel=1e-12)
        assert a.covariance == pytest.approx(b.covariance, rel=1e-12)


def test_statistics_survive_their_files(daily, tmp_path):
    daily.write(tmp_path)
    again = DailyStatistics.read(tmp_path)
    assert (again.caps, again.days, again.segments) == (daily.caps, daily.days, daily.segments)
    assert again.caps == {"winsorised": pytest.approx(daily.caps["winsorised"])}
    both = [d.statistics(tuple(METRICS.values()), ARMS, AS_OF) for d in (daily, again)]
    assert both[0] == both[1]


ONE = pd.DataFrame({"unit_id": [1], "arm": ["control"], "first_exposed_at": [pd.Timestamp(START + 12 * timedelta(hours=1))], "arms": [1]})  # fmt: skip
NOON = START + timedelta(hours=12)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("at", "counted"),
    [
        pytest.param(NOON, True, id="at first exposure"),
        pytest.param(NOON - TICK, False, id="just before it"),
        pytest.param(NOON + 7 * DAY - TICK, True, id="just within seven days"),
        pytest.param(NOON + 7 * DAY, False, id="at seven days"),
    ],
)
def test_a_window_is_closed_at_its_start_and_open_at_its_end(at, counted):
    play = pd.DataFrame({"user_id": [1], "watch_minutes": [30.0], "completed": [True], "event_timestamp": [at], "created_timestamp": [at]})  # fmt: skip
    (control, _) = gathered(ONE, play, [defined()]).statistics([defined()], ARMS, AS_OF).arms
    assert control.mean["m"] == (30.0 if counted else 0.0)


@pytest.mark.parametrize(("known", "counted"), [(AS_OF - TICK, True), (AS_OF, False)])
def test_an_event_heard_of_too_late_is_not_counted(known, counted):
    play = pd.DataFrame({"user_id": [1], "watch_minutes": [30.0], "completed": [True], "event_timestamp": [NOON], "created_timestamp": [known]})  # fmt: skip
    (control, _) = gathered(ONE, play, [defined()]).statistics([defined()], ARMS, AS_OF).arms
    assert control.mean["m"] == (30.0 if counted else 0.0)


def test_a_metric_waits_until_the_day_of_exposure_and_the_window_are_over(events):
    """Units of day 0 can be read at day 8 for a window of seven days; retention to day 14 waits longer."""
    units, plays = events
    metrics = [METRICS["mean"], METRICS["retention"]]
    daily = gathered(units, plays, metrics, START + 9 * DAY)
    early = daily.statistics(metrics, ARMS, START + 8 * DAY - TICK)
    assert early.waiting == {"mean": START + 8 * DAY, "retention": START + 15 * DAY}
    found = daily.statistics(metrics, ARMS, START + 9 * DAY)
    first_two = units[units["first_exposed_at"] < START + 2 * DAY]
    for arm in found.arms:
        assert arm.count("mean") == (first_two["arm"] == arm.arm).sum()
        assert arm.units == (units["arm"] == arm.arm).sum()
    assert set(found.waiting) == {"retention"}
    assert [arm.count("retention") for arm in found.arms] == [0, 0]


def test_a_cut_is_at_the_quantile_of_units_that_can_be_read(events, by_hand):
    units, plays = events
    daily = gathered(units, plays, [METRICS["winsorised"]], START + 9 * DAY)
    mature = (units["first_exposed_at"] < START + 2 * DAY).to_numpy()
    values = np.sort(by_hand["mean"].to_numpy()[mature])
    assert daily.caps == {"winsorised": pytest.approx(values[int(np.ceil(0.9 * len(values))) - 1])}


def test_a_flag_adds_one_where_it_is_true_and_what_is_unknown_adds_nothing():
    when = [NOON + k * pd.Timedelta(minutes=1) for k in range(4)]
    flags, minutes = pd.array([True, None, False, True], "boolean"), [1.5, None, 2.0, None]
    plays = pd.DataFrame({"user_id": 1, "watch_minutes": minutes, "completed": flags, "event_timestamp": when, "created_timestamp": when})  # fmt: skip
    finished = {"source": "plays", "sum": "watch_minutes", "where": {"completed": [True]}}
    flag = defined("flag", of={"source": "plays", "sum": "completed"})
    metrics = [
        flag,
        defined("minutes"),
        defined("finished", of=finished),
        defined("plays", of={"source": "plays"}),
    ]
    (control, _) = gathered(ONE, plays, metrics).statistics(metrics, ARMS, AS_OF).arms
    assert control.mean == {"flag": 2.0, "minutes": 3.5, "finished": 1.5, "plays": 4.0}


def test_overlapping_windows_of_one_measure_each_hold_their_own_days():
    """A play of 2^k minutes on day k since exposure: a window's sum says which days it held."""
    days = range(-3, 6)
    when = [NOON + k * DAY for k in days]
    plays = pd.DataFrame({"user_id": 1, "watch_minutes": [2.0 ** (k + 3) for k in days], "completed": True, "event_timestamp": when, "created_timestamp": when})  # fmt: skip
    windows = {"first": (0, 1), "week": (0, 6), "late": (2, 5), "middle": (1, 3)}
    metrics = [defined(name, from_day=low, window_days=high) for name, (low, high) in windows.items()]
    metrics += [defined("before", window_days=1, covariate_days=2)]
    (control, _) = gathered(ONE, plays, metrics).statistics(metrics, ARMS, AS_OF).arms
    wanted = {name: float(sum(2 ** (k + 3) for k in range(*ends))) for name, ends in windows.items()}
    assert control.mean == {**wanted, "before": 8.0, "before__before": 2.0 + 4.0}


def test_where_nobody_was_exposed_there_is_nothing_to_read(events):
    units, plays = events
    daily = gathered(units[:0], plays, tuple(METRICS.values()))
    assert (len(daily.units), len(daily.moments), len(daily.histograms), daily.days) == (0, 0, 0, ())


def test_units_of_an_undeclared_arm_are_strangers(events):
    units, plays = events
    odd = units.assign(arm=units["arm"].where(units["unit_id"] >= 5, "other"))
    found = gathered(odd, plays, [METRICS["mean"]]).statistics([METRICS["mean"]], ARMS, AS_OF)
    assert found.strangers == {"other": 5}


def test_units_seen_in_two_arms_are_counted_apart(events):
    units, plays = events
    crossed = units.assign(arms=np.where(units["unit_id"] < 7, 2, 1))
    daily = gathered(crossed, plays, [METRICS["mean"]])
    found = daily.statistics([METRICS["mean"]], ARMS, AS_OF)
    assert (found.crossovers, sum(arm.units for arm in found.arms)) == (7, 893)


def test_segments_hold_the_units_of_an_attribute(events, by_hand):
    units, plays = events
    country = np.array(["NO", "DE", None], dtype=object)[np.arange(900) % 3]
    users = pd.DataFrame(
        {"user_id": np.arange(900), "country": country, "event_timestamp": START, "created_timestamp": START}
    )
    moved = users[users["country"].notna()].assign(
        country="SE", event_timestamp=START - DAY
    )  # where they lived before
    users = pd.concat([moved, users, users.assign(country="FR", created_timestamp=AS_OF)])
    with connection(plays, users=users) as con:
        daily = gather(con, arrow(units), [METRICS["cuped"]], AS_OF, ["country"])
    assert daily.segments == ("country=DE", "country=NO", "country=unknown")
    (control, _) = daily.statistics([METRICS["cuped"]], ARMS, AS_OF).segments["country=NO"]
    theirs = by_hand[(np.arange(900) % 3 == 0) & (by_hand["arm"] == "control")]
    assert control.units == control.count("cuped") == len(theirs)
    assert control.mean["cuped__before"] == pytest.approx(theirs["cuped__before"].mean(), rel=1e-9)


def test_days_since_exposure_and_slopes_are_those_counted_by_hand(events, daily):
    units, plays = events
    found = daily.statistics(tuple(METRICS.values()), ARMS, AS_OF)
    joined = plays.merge(units, left_on="user_id", right_on="unit_id")
    day = np.floor((joined["event_timestamp"] - joined["first_exposed_at"]) / DAY)
    grid = joined.assign(day=day)[day.between(0, 6)].pivot_table(
        "watch_minutes", "unit_id", "day", "sum", 0.0
    )
    grid = grid.reindex(np.arange(900), fill_value=0.0)
    slopes = np.array([np.polyfit(np.arange(7), row, 1)[0] for row in grid.to_numpy()])
    for place, arm in enumerate(ARMS):
        mine = (units["arm"] == arm).to_numpy()
        for tenure in range(7):
            column = grid.to_numpy()[mine, tenure]
            assert found.tenures[tenure][place].mean["value"] == pytest.approx(column.mean(), rel=1e-9)
            assert found.tenures[tenure][place].variance["value"] == pytest.approx(
                column.var(ddof=1), rel=1e-9
            )
        assert found.trend[place].mean["slope"] == pytest.approx(slopes[mine].mean(), rel=1e-9)
        assert found.trend[place].variance["slope"] == pytest.approx(slopes[mine].var(ddof=1), rel=1e-9)
        assert found.trend[place].units == mine.sum()


def test_a_metric_without_definition_is_not_scanned(events, demo):
    with pytest.raises(NotDefined, match="minutes_per_member, plays_per_member, renewal_share"):
        gathered(*events, demo.metrics.all)


def test_what_is_declared_absent_is_said(merged):
    empty = merged["control"].model_copy(update={"order": {}})
    assert "too few around quantile 0.75" in unreadable(METRICS["quantile"], empty, merged["treatment"])
