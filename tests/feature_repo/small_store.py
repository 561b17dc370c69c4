"""A small declared world, its computed tables as Parquet, and a slow reading of both to compare with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.arithmetic import Constant, Ref, dot, evaluate
from feature_repo.declarations import (
    ARTWORK,
    TITLE,
    USER,
    Attribute,
    Declarations,
    Derived,
    Entity,
    Feature,
    FeatureService,
    FeatureTable,
    Weight,
)
from validations.expectations import DType

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
USERS, TITLES, ARTWORKS = range(10, 40, 10), range(100, 105), range(1000, 1010)
JOIN_KEYS = {"user": USERS, "title": TITLES, "artwork": ARTWORKS}

minutes, rate = Ref("user_profile", "minutes"), Ref("user_activity", "rate")
runtime, share = Ref("title_profile", "runtime"), Ref("title_activity", "share")
CROSSED = {
    "gap": abs(runtime - minutes),
    "ratio": minutes / runtime,
    "match": dot([minutes, rate], [runtime, share]),
    "match_share": dot([minutes, rate], [runtime, share]) / (rate * share),
    "rate_or_one": rate.orelse(1.0) * Constant(0.5),
    "user_only": minutes / rate,
}


def feature(name: str, dtype: DType = DType.FLOAT, meaning: str = "x") -> Feature:
    column = ibis.table({"x": "float64", "y": "float64"}, name="events")[meaning]
    return Feature(name, Attribute(column), f"the {name}", "units", (), frozenset(), dtype=dtype)


def table(
    name: str, entity: Entity, *features: Feature, ttl_days: int = 7, stored: bool = True
) -> FeatureTable:
    return FeatureTable(name, entity, Weight.LIGHT, f"{name}, for tests", features, ttl_days, stored)


def declarations(ttl_days: int = 7, minutes_mean: str = "x") -> Declarations:
    """`minutes_mean` is the computation of user_profile:minutes; another one gives another digest."""
    pair = Entity("user_title", "user_id,title_id", "a member looking at a title")
    tables = {
        t.name: t
        for t in (
            table(
                "user_profile",
                USER,
                feature("minutes", meaning=minutes_mean),
                feature("plays"),
                ttl_days=ttl_days,
            ),
            table("user_activity", USER, feature("rate"), ttl_days=ttl_days),
            table("title_profile", TITLE, feature("runtime"), feature("year"), ttl_days=ttl_days),
            table("title_activity", TITLE, feature("share"), ttl_days=ttl_days),
            table("artwork_profile", ARTWORK, feature("brightness"), ttl_days=ttl_days),
            table("user_history", USER, feature("recent_title_ids", DType.BIGINTS), ttl_days=ttl_days),
            table(
                "user_title",
                pair,
                *(
                    Feature(name, Derived(expression), name, "score", (), frozenset())
                    for name, expression in CROSSED.items()
                ),
                stored=False,
            ),
        )
    }
    services = {
        "retrieval_user": ["user_profile"],
        "retrieval_title": ["title_profile"],
        "ranking": ["user_profile", "user_activity", "title_profile", "title_activity", "user_title"],
        "artwork_image": ["artwork_profile"],
    }
    return Declarations(
        "world",
        tuple(tables.values()),
        tuple(FeatureService(name, tuple(tables[t] for t in of), name) for name, of in services.items()),
        (),
    )


def computed(declared: FeatureTable, as_of: datetime, seed: int = 0) -> pa.Table:
    """Random values in fixed order, a fifth of them null and a fifth zero."""
    rng = np.random.default_rng([seed, *declared.name.encode()])
    ids = np.array(JOIN_KEYS[declared.entity.name])
    moment = pa.array([as_of] * len(ids), pa.timestamp("us", "UTC"))
    columns = {
        declared.entity.join_key: pa.array(ids),
        "event_timestamp": moment,
        "created_timestamp": moment,
    }
    for declared_feature in declared.features:
        if declared_feature.dtype is DType.BIGINTS:
            lists = [rng.choice(list(TITLES), size=n % 3).tolist() for n in range(len(ids))]
            columns[declared_feature.name] = pa.array(lists, pa.list_(pa.int64()))
        else:
            chance = rng.random(len(ids))
            values = np.where(chance < 0.2, 0, rng.normal(scale=40, size=len(ids))).astype(np.float32)
            columns[declared_feature.name] = pa.array(values, mask=chance > 0.8)
    return pa.table(columns)


def write_offline(folder: Path, declared: Declarations, as_of: datetime, seed: int = 0) -> dict[str, Path]:
    """Stored table → its Parquet file, in the layout of the offline folder."""
    paths = {}
    for each in declared.stored:
        path = folder / each.name / f"as_of={as_of:%Y-%m-%dT%H%M%SZ}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(computed(each, as_of, seed), path)
        paths[each.name] = path
    return paths


def write_constant(folder: Path, declared: Declarations, as_of: datetime, value: float) -> dict[str, Path]:
    """As `write_offline`, but every FLOAT is `value`."""
    paths = write_offline(folder, declared, as_of)
    for path in paths.values():
        rows = pq.read_table(path, partitioning=None)
        constant = pa.array([value] * rows.num_rows, pa.float32())
        columns = {
            name: constant if rows[name].type == pa.float32() else rows[name] for name in rows.column_names
        }
        pq.write_table(pa.table(columns), path)
    return paths


def catalogue() -> pa.Table:
    count = len(TITLES)
    return pa.table({
        "title_id": pa.array(TITLES, pa.int64()),
        "name": [f"Title {i}" for i in TITLES],
        "release_year": pa.array([None, *range(2001, 2000 + count)], pa.int32()),
        "genres": pa.array([["Drama"], [], None, ["War", "Drama"], ["Western"]], pa.list_(pa.string())),
        "available_from": pa.array([MONDAY + DAY * i for i in range(count)], pa.timestamp("us", "UTC")),
        "artworks": pa.array([[2 * i, 2 * i + 1] for i in range(500, 500 + count)], pa.list_(pa.int64())),
    })  # fmt: skip


def read_offline(paths: dict[str, Path], table_name: str, feature_name: str, entity_id: int) -> np.float32:
    """One value, straight from the Parquet file; NaN where it is null or the entity has no row."""
    rows = pq.read_table(paths[table_name], partitioning=None).to_pylist()
    for row in rows:
        if row[next(iter(row))] == entity_id:
            value = row[feature_name]
            return np.float32(np.nan if value is None else value)
    return np.float32(np.nan)


def ranking_by_hand(
    paths: dict[str, Path], declared: Declarations, user_id: int, title_id: int
) -> np.ndarray:
    """The `ranking` row of one user and title, one feature at a time."""

    def stored(ref: Ref) -> np.ndarray:
        entity = declared.table(ref.table).entity
        value = read_offline(paths, ref.table, ref.feature, user_id if entity == USER else title_id)
        return np.array([value], dtype=np.float64)

    row = []
    for each in declared.service("ranking").tables:
        for f in each.features:
            expression = (
                f.computation.expression if isinstance(f.computation, Derived) else Ref(each.name, f.name)
            )
            with np.errstate(all="ignore"):
                row.append(np.broadcast_to(evaluate(expression, stored), (1,)).astype(np.float32)[0])
    return np.array(row, dtype=np.float32)
