"""Assignment in SQL: the same function as `assignment.Assigner`, as text for DuckDB.

xxHash64 of eight bytes is arithmetic on 64-bit words (xxHash specification, XXH64, short input). DuckDB has no
wrapping multiplication, so words are UHUGEINT and every product is masked.
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.config import BUCKETS, EVERYONE, HELD_OUT, JSON, WINNERS_ONLY
from experiments.hashing import seed_of
from experiments.live import LiveExperiment, LiveExperiments

_WORD = "18446744073709551615::UHUGEINT"
_PRIMES = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)
_P1, _P2, _P3, _P4, _P5 = (f"{prime}::UHUGEINT" for prime in _PRIMES)

MACROS = f"""
CREATE OR REPLACE TEMP MACRO times64(x, p) AS (x * p) & {_WORD};
CREATE OR REPLACE TEMP MACRO rotl64(x, r) AS ((x << r::UHUGEINT) & {_WORD}) | (x >> (64 - r)::UHUGEINT);
CREATE OR REPLACE TEMP MACRO shifted64(x, r) AS xor(x, x >> r::UHUGEINT);
CREATE OR REPLACE TEMP MACRO round64(k) AS times64(rotl64(times64(k, {_P2}), 31), {_P1});
CREATE OR REPLACE TEMP MACRO merged64(h, k) AS (times64(rotl64(xor(h, round64(k)), 27), {_P1}) + {_P4}) & {_WORD};
CREATE OR REPLACE TEMP MACRO avalanched64(h) AS
    shifted64(times64(shifted64(times64(shifted64(h, 33), {_P2}), 29), {_P3}), 32);
CREATE OR REPLACE TEMP MACRO xxh64(id, seed) AS
    avalanched64(merged64((seed::UHUGEINT + {_P5} + 8) & {_WORD}, id::UHUGEINT))::UBIGINT;
CREATE OR REPLACE TEMP MACRO bucket(id, seed) AS (xxh64(id, seed) % {BUCKETS})::INTEGER;
"""
"""Run once on a connection: `xxh64(id, seed)` for a BIGINT of 0 or more, and `bucket(id, seed)`."""


def assignment_sql(live: LiveExperiments, units: str = "units", unit_id: str = "unit_id") -> str:
    """A query of (unit_id, experiment, arm) for every unit of table `units` and every arm it is in.

    Needs `MACROS`. Attributes that experiments target are columns of `units`; null is no target.
    """
    if not live.experiments and live.holdout is None:
        return f"SELECT {unit_id} AS unit_id, '' AS experiment, '' AS arm FROM {units} WHERE false"
    entry = live.holdout
    if entry is None:
        return _in_layers(live, units, unit_id)
    seed, (winners, everyone) = seed_of("holdout", entry.salt), entry.declaration.buckets
    apart = f"""SELECT {unit_id} AS unit_id, {_text(entry.declaration.name)} AS experiment,
    CASE WHEN bucket({unit_id}, {seed}::UBIGINT) < {winners} THEN '{HELD_OUT}'
        WHEN bucket({unit_id}, {seed}::UBIGINT) < {everyone} THEN '{WINNERS_ONLY}' ELSE '{EVERYONE}' END AS arm
FROM {units}"""
    if not live.experiments:
        return apart
    others = f"(SELECT * FROM {units} WHERE bucket({unit_id}, {seed}::UBIGINT) >= {everyone})"
    return f"{apart}\nUNION ALL ({_in_layers(live, others, unit_id)})"


def _in_layers(live: LiveExperiments, units: str, unit_id: str) -> str:
    """The arms of the layers, of every unit of a table or query."""
    return f"""
WITH experiment(layer, layer_seed, experiment, low, high, rollout_seed, rollout, arm_seed) AS (VALUES
    {_rows(_experiment_row(entry) for entry in live.experiments)}),
arm(experiment, arm, low, high) AS (VALUES
    {_rows(f"{_text(e.name)}, {_text(a.name)}, {a.low}, {a.high}" for e in live.experiments for a in e.arms)}),
placed AS (SELECT u.*, l.layer, bucket(u.{unit_id}, l.layer_seed) AS layer_bucket
    FROM {units} u, (SELECT DISTINCT layer, layer_seed FROM experiment) l),
taking_part AS (SELECT p.{unit_id} AS unit_id, e.experiment, e.arm_seed
    FROM placed p JOIN experiment e ON p.layer = e.layer AND p.layer_bucket >= e.low AND p.layer_bucket < e.high
    WHERE bucket(p.{unit_id}, e.rollout_seed) < e.rollout AND {_targeting(live)})
SELECT t.unit_id, t.experiment, a.arm
FROM (SELECT *, bucket(unit_id, arm_seed) AS arm_bucket FROM taking_part) t
JOIN arm a ON a.experiment = t.experiment AND t.arm_bucket >= a.low AND t.arm_bucket < a.high"""


def _rows(rows: Iterable[str]) -> str:
    return ",\n    ".join(f"({row})" for row in rows)


def _experiment_row(entry: LiveExperiment) -> str:
    layer = entry.declaration.layer
    seeds = [f"{seed_of(p, s)}::UBIGINT" for p, s in
             (("layer", layer), ("rollout", entry.salt), ("arm", entry.salt))]  # fmt: skip
    low, high = entry.slot
    return f"{_text(layer)}, {seeds[0]}, {_text(entry.name)}, {low}, {high}, {seeds[1]}, {entry.rollout}, {seeds[2]}"


def _targeting(live: LiveExperiments) -> str:
    cases = [
        f"WHEN {_text(e.name)} THEN {' AND '.join(_is_one_of(k, v) for k, v in e.declaration.targeting.items())}"
        for e in live.experiments
        if e.declaration.targeting
    ]
    return f"coalesce(CASE e.experiment {' '.join(cases)} ELSE true END, false)" if cases else "true"


def _is_one_of(attribute: str, values: tuple[JSON, ...]) -> str:
    column = '"' + attribute.replace('"', '""') + '"'
    return f"p.{column} IN ({', '.join(_text(v) if isinstance(v, str) else str(v) for v in values)})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
