"""What became of every arm on every day, from the exposure log and the events: the same rows that read-outs are made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.stats

from experiments.config import Arm, Experiment
from experiments.readout import Readout, read_out_tables
from matinee.context import Day
from matinee.desk import literal
from matinee.experimenting import outcomes
from matinee.simulation.designs import CONTROL, more_renewals
from matinee.simulation.new_titles import Showings
from matinee.simulation.pages import Kept, held_out
from serving.exposure_table import read

EVERYBODY = "all pages"


@dataclass(frozen=True)
class Figure:
    """A mean of n units with its 95 % interval; a share's is Wilson's."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmDay:
    """One arm on one day: plays and minutes a member who came, and the share of due memberships that were renewed."""

    experiment: str
    arm: str
    day: date
    plays: Figure
    minutes: Figure
    renewals: Figure | None  # None where nobody's period ended


def log_since(day: Day, since: datetime) -> pa.Table:
    """The exposures from `since` on."""
    log = read(day.workspace.exposures)
    return log.filter(pc.greater_equal(log["event_timestamp"], pa.scalar(since, log["event_timestamp"].type)))


def by_day(day: Day, since: datetime) -> tuple[ArmDay, ...]:
    """Every arm, and all members together, day by day from `since`; a member's renewal counts for the arm they were first seen in."""
    log = log_since(day, since)
    with day.desk.events() as connection:
        connection.register("log", log)
        connection.execute(f"""CREATE TEMP VIEW seen AS
            SELECT user_id, impression_id, event_timestamp, a.experiment AS experiment, a.arm AS arm
            FROM (SELECT *, unnest(arms) AS a FROM log)
            UNION ALL SELECT user_id, impression_id, event_timestamp, '{EVERYBODY}', '{EVERYBODY}' FROM log""")
        watched = connection.sql("""
            SELECT experiment, arm, day, count(*), avg(plays), coalesce(stddev_samp(plays), 0), avg(minutes), coalesce(stddev_samp(minutes), 0)
            FROM (SELECT experiment, arm, s.event_timestamp::DATE AS day, s.user_id, count(p.play_id) AS plays,
                         coalesce(sum(p.watch_minutes), 0) AS minutes
                  FROM seen s LEFT JOIN plays p USING (impression_id) GROUP BY ALL)
            GROUP BY ALL ORDER BY ALL""").fetchall()
        renewed = connection.sql(f"""
            WITH first AS (SELECT experiment, user_id, arg_min(arm, event_timestamp) AS arm, min(event_timestamp) AS since
                           FROM seen GROUP BY ALL)
            SELECT experiment, arm, m.event_timestamp::DATE, count(*), count(*) FILTER (status = 'renewed')
            FROM first f JOIN memberships m ON m.user_id = f.user_id AND m.event_timestamp >= f.since
            WHERE status <> 'started' AND m.event_timestamp >= {literal(since)} GROUP BY ALL""").fetchall()
    shares = {(experiment, arm, when): share(good, n) for experiment, arm, when, n, good in renewed}
    return tuple(
        ArmDay(
            experiment,
            arm,
            when,
            _mean(n, plays, plays_sd),
            _mean(n, minutes, minutes_sd),
            shares.get((experiment, arm, when)),
        )
        for experiment, arm, when, n, plays, plays_sd, minutes, minutes_sd in watched
    )


def _mean(n: int, mean: float, sd: float) -> Figure:
    reach = float(scipy.stats.t.ppf(0.975, max(n - 1, 1))) * sd / n**0.5
    return Figure(n, mean, mean - reach, mean + reach)


def share(good: int, n: int, confidence: float = 0.95) -> Figure:
    """A share with Wilson's (1927) interval.

    >>> share(9, 10)
    Figure(n=10, mean=0.9, low=0.59..., high=0.98...)
    """
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    middle, reach = (
        (good + z * z / 2) / (n + z * z),
        z * (good * (n - good) / n + z * z / 4) ** 0.5 / (n + z * z),
    )
    return Figure(n, good / n, middle - reach, middle + reach)


def held_out_readout(day: Day, since: datetime, at: datetime, kept: Kept) -> Readout:
    """(f) Everything that changed since the run began, against those for whom nothing did; everyone else is the treatment."""
    experiment = Experiment(
        name="hold-out", layer="everything", owner="simulation", control=CONTROL,
        hypothesis="All that was shipped and learnt since the run began keeps more members.",
        arms={CONTROL: Arm(share=kept.share), "everyone-else": Arm(share=1 - kept.share)},
        metrics=more_renewals(), start=since, end=at,
    )  # fmt: skip
    log = log_since(day, since)
    users = log["user_id"].to_numpy()
    held = np.isin(users, held_out(np.unique(users), kept))
    exposures = pa.table({
        "user_id": users, "event_timestamp": log["event_timestamp"],
        "experiment": ["hold-out"] * len(users), "arm": np.where(held, CONTROL, "everyone-else"),
    })  # fmt: skip
    return read_out_tables(experiment, exposures, outcomes(day, log), at)


def new_title_traffic(
    day: Day, since: datetime, contexts: dict[date, tuple[np.ndarray, np.ndarray]]
) -> list[Showings]:
    """The showings since `since` of titles that became available later than that; `contexts` are (user ids, features) by day."""
    log = log_since(day, since)
    with day.desk.events() as connection:
        connection.register("log", log)
        rows = connection.sql(f"""
            SELECT event_timestamp::DATE AS day, user_id, title_id, position, epoch_us(event_timestamp) AS moment
            FROM log SEMI JOIN (SELECT title_id FROM titles WHERE available_from >= {literal(since)}) USING (title_id)
            WHERE artwork_id IS NOT NULL ORDER BY moment, user_id, position""").to_arrow_table()
    days = np.array(rows["day"].to_pylist(), dtype=object)
    columns = [rows[name].to_numpy() for name in ("user_id", "title_id", "position", "moment")]
    found = []
    for when, (ids, features) in contexts.items():
        mine = days == when
        user, title, position, at = (column[mine] for column in columns)
        place = np.minimum(np.searchsorted(ids, user), len(ids) - 1)
        context = np.where((ids[place] == user)[:, None], features[place], np.nan).astype(np.float32)
        found.append(Showings(user, title, position, at, context))
    return found
