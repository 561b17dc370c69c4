from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import small_store as small
import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_events import NOON, SECOND, days, play, register

import feature_repo
from events.sources import WORLD
from feature_repo.arithmetic import evaluate
from feature_repo.compute import Step, offline_path, plan, run, stamp
from feature_repo.content import add_content
from feature_repo.declarations import Declarations, Derived, FeatureService
from feature_repo.families import declare
from feature_repo.point_in_time import SpineLacks
from feature_repo.repository import apply
from feature_repo.training_set import NoSnapshot, NotForTraining, TrainingSet, snapshot_matrix, training_set

DECLARED = declare(WORLD)
AS_OFS = [NOON - days(2), NOON - days(1), NOON]
PLAYS = [play(NOON - days(d), title_id=t, user_id=u, watch_minutes=10.0 * d, watch_share=0.25)
         for d in (0.5, 1.5, 2.5, 4) for t in (10, 11) for u in (1, 2)]  # fmt: skip


def events(connection):
    register(connection, PLAYS)


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    steps = plan(DECLARED, AS_OFS, lambda _: "events", folder)
    run(steps, "world", events, threads=1)
    return folder


def spine(*labels: tuple[int, int, datetime]) -> pa.Table:
    users, titles, moments = zip(*labels, strict=True)
    return pa.table({
        "user_id": pa.array(users, pa.int64()), "title_id": pa.array(titles, pa.int64()),
        "event_timestamp": pa.array(moments, pa.timestamp("us", tz="UTC")),
    })  # fmt: skip


def test_each_label_gets_the_newest_snapshot_that_is_not_younger_than_it(offline):
    labels = spine((1, 10, NOON + SECOND), (1, 10, NOON), (1, 10, NOON - SECOND), (2, 11, NOON - days(2)))
    made = training_set(
        labels, DECLARED.service("ranking"), DECLARED, offline, AS_OFS, events=events, threads=1
    )
    table = DECLARED.table("user_profile")
    column = made.names.index("user_profile:play_count_28d")
    for row, as_of, user in ((0, NOON, 1), (1, NOON, 1), (2, AS_OFS[1], 1), (3, AS_OFS[0], 2)):
        ids, matrix = snapshot_matrix(offline_path(offline, table.name, as_of), table)
        expected = matrix[list(ids).index(user), table.names.index("play_count_28d")]
        assert made.features[row, column] == expected


def test_a_label_older_than_every_snapshot_is_refused(offline):
    with pytest.raises(NoSnapshot, match="needs features known before it"):
        training_set(
            spine((1, 10, AS_OFS[0] - SECOND)),
            DECLARED.service("ranking"),
            DECLARED,
            offline,
            AS_OFS,
            events=events,
        )


def test_a_title_unknown_at_that_time_has_unknown_features_and_keeps_its_place(offline):
    made = training_set(
        spine((1, 999, NOON), (1, 10, NOON)),
        DECLARED.service("ranking"),
        DECLARED,
        offline,
        AS_OFS,
        events=events,
    )
    titles = [i for i, name in enumerate(made.names) if name.startswith("title_")]
    assert np.isnan(made.features[0, titles]).all()
    assert not np.isnan(made.features[1, titles]).all()


def test_user_title_features_in_sql_equal_their_numpy_evaluation_bit_for_bit(offline):
    labels = spine(*[(u, t, NOON) for u in (1, 2) for t in (10, 11, 12)])
    made = training_set(
        labels, DECLARED.service("ranking"), DECLARED, offline, AS_OFS, events=events, threads=1
    )
    stored = {name: made.features[:, i].astype(np.float64) for i, name in enumerate(made.names)}
    for feature in DECLARED.table("user_title").features:
        assert isinstance(feature.computation, Derived)
        with np.errstate(all="ignore"):
            value = evaluate(feature.computation.expression, lambda ref: stored[f"{ref.table}:{ref.feature}"])
        in_sql = made.features[:, made.names.index(f"user_title:{feature.name}")]
        np.testing.assert_array_equal(in_sql, value.astype(np.float32), err_msg=feature.name)


def test_the_same_inputs_give_the_same_digest_and_another_label_another(offline):
    service = DECLARED.service("ranking")
    first, again, other = (
        training_set(labels, service, DECLARED, offline, AS_OFS, events=events).digest
        for labels in (spine((1, 10, NOON)), spine((1, 10, NOON)), spine((1, 11, NOON)))
    )
    assert first == again != other


def test_features_on_disk_are_the_features_in_memory_and_leave_nothing_behind(offline, tmp_path):
    labels, service = spine(*[(u, t, NOON) for u in (1, 2, 3) for t in (10, 11)]), DECLARED.service("ranking")
    made, mapped = (
        training_set(labels, service, DECLARED, offline, AS_OFS, events=events, scratch=scratch)
        for scratch in (None, tmp_path / "scratch")
    )
    assert mapped.features.tobytes() == made.features.tobytes()
    assert mapped.digest == made.digest
    assert str(tmp_path) in Path("/proc/self/maps").read_text()  # it lies there,
    assert list((tmp_path / "scratch").iterdir()) == []  # without a name,
    del mapped
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()  # and is gone when nobody holds it


def test_an_unchanged_step_is_kept_and_changed_events_make_it_stale(offline):
    assert all(step.fresh for step in plan(DECLARED, AS_OFS, lambda _: "events", offline))
    assert not any(step.fresh for step in plan(DECLARED, AS_OFS, lambda _: "other events", offline))


def test_a_plan_reads_as_a_list_of_steps_before_anything_runs(tmp_path):
    steps = plan(DECLARED, [datetime(2026, 2, 5, tzinfo=UTC)], lambda _: "x", tmp_path, ["user_profile"])
    assert [str(s) for s in steps] == [
        f"compute user_profile as of 2026-02-05T000000Z ({len(DECLARED.table('user_profile').features)} features)"
    ]
    assert isinstance(steps[0], Step)
    assert not list(tmp_path.iterdir())


def test_computing_twice_gives_the_same_bytes(offline, tmp_path):
    run(plan(DECLARED, [NOON], lambda _: "events", tmp_path), "world", events, threads=1)
    for table in DECLARED.stored:
        first, second = (offline_path(f, table.name, NOON).read_bytes() for f in (offline, tmp_path))
        assert first == second, table.name


def test_the_files_say_when_their_features_are_as_of(offline):
    path = offline_path(offline, "user_profile", NOON)
    assert path.name == f"as_of={stamp(NOON)}.parquet"
    with duckdb.connect() as connection:
        (row,) = connection.sql(
            f"SELECT DISTINCT epoch(event_timestamp) FROM read_parquet('{path}')"
        ).fetchall()
    assert row[0] == NOON.timestamp()


# What follows is about days written by hand: small tables, some entities missing, some rows late.


@dataclass(frozen=True)
class Days:
    """Computed tables of several days, and plain Feast over the same files with our offline store and with stock's."""

    home: Path
    declared: Declarations
    moments: tuple[datetime, ...]

    def made(self, labels: pa.Table, service: str = "ranking") -> TrainingSet:
        return training_set(
            labels,
            self.declared.service(service),
            self.declared,
            self.home / "offline",
            self.moments,
            threads=1,
        )

    def feast(self, kind: str, labels: pa.Table, service: str = "ranking") -> np.ndarray:
        """The same matrix by `get_historical_features`, in the order of the labels' `label` column."""
        settings = yaml.safe_load(FEATURE_STORE.read_text().replace("${MATINEE_HOME}", str(self.home)))
        settings["offline_store"] = {"type": kind}
        store = FeatureStore(config=RepoConfig(**settings, repo_path=FEATURE_STORE.parent))
        asked = store.get_feature_service(service)
        job = store.get_historical_features(labels.to_pandas(), asked, full_feature_names=True, filter_by_created_timestamp=True)  # fmt: skip
        found = job.to_df().sort_values("label", kind="stable")
        assert found["label"].tolist() == sorted(labels["label"].to_pylist())
        names = [name.replace(":", "__") for name in self.declared.service(service).digests]
        return found[names].to_numpy(dtype=np.float32, na_value=np.nan)


OURS = "feature_repo.offline_store.DuckDBOfflineStore"
FEATURE_STORE = Path(feature_repo.__file__).with_name("feature_store.yaml")
quiet = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:ibis.*", "ignore:On demand feature view is an experimental:RuntimeWarning"
)


def write_days(home: Path, declared: Declarations, moments: tuple[datetime, ...], keep: float = 0.7) -> Days:
    """Random values; of each day's entities a random part is missing from each table."""
    rng = np.random.default_rng(0)
    for seed, moment in enumerate(moments):
        for path in small.write_offline(home / "offline", declared, moment, seed).values():
            rows = pq.read_table(path, partitioning=None)
            pq.write_table(rows.filter(pa.array(rng.random(len(rows)) < keep)), path)
    (home / "workspace.json").write_text('{"source": "world"}')
    apply(home, declared)
    return Days(home, declared, moments)


@pytest.fixture(scope="module")
def days_of(tmp_path_factory) -> Days:
    moments = tuple(small.MONDAY + days(d) for d in (0, 1, 2, 4))
    return write_days(tmp_path_factory.mktemp("days"), small.declarations(ttl_days=2), moments)


def some_labels(seed: int, n: int = 120) -> pa.Table:
    """Labels over nine days, a third of them exactly at a snapshot, at the end of its life, or a µs past; some twice."""
    rng = np.random.default_rng(seed)
    start = int(small.MONDAY.timestamp()) * 1_000_000
    at = rng.integers(0, 9 * 24 * 3600 * 1_000_000, n)
    edges = rng.integers(0, 8, n) * 24 * 3600 * 1_000_000 + rng.integers(0, 2, n)
    at = np.where(rng.random(n) < 0.4, edges, at) + start
    picked = rng.integers(0, n, n)  # with repeats
    users, titles = rng.choice([*small.USERS, 77], n), rng.choice([*small.TITLES, 999], n)
    return pa.table({
        "user_id": users[picked], "title_id": titles[picked],
        "event_timestamp": pa.array(at[picked], pa.timestamp("us", "UTC")), "label": np.arange(n),
    })  # fmt: skip


@quiet
@pytest.mark.parametrize("kind", [OURS, "duckdb"])
@pytest.mark.parametrize("seed", range(2))
def test_a_training_set_is_row_for_row_what_feast_answers(days_of, kind, seed):
    """Time to live, entities missing from the newest day, labels without any match and user × title features included."""
    labels = some_labels(seed)
    made = days_of.made(labels)
    np.testing.assert_array_equal(made.features, days_of.feast(kind, labels))
    assert made.spine.equals(labels)
    share = np.isnan(made.features).mean()
    assert 0.1 < share < 0.9  # there is something to compare on either side


@quiet
def test_a_long_training_set_is_made_of_the_rows_of_short_ones(days_of):
    labels = some_labels(5)
    short, long = days_of.made(labels), days_of.made(pa.concat_tables([labels] * 150))
    np.testing.assert_array_equal(long.features, np.tile(short.features, (150, 1)))


def one_feature(
    days_of: Days, users: list[int | None], moments: list[datetime], zone: str | None = "UTC"
) -> list:
    """user_profile:plays for a user at a moment each."""
    at = pa.array(moments, pa.timestamp("us", "UTC"))
    at = at.cast(pa.timestamp("us", zone)) if zone else at.cast(pa.int64()).cast(pa.timestamp("us"))
    labels = pa.table({"user_id": pa.array(users, pa.int64()), "event_timestamp": at})
    made = days_of.made(labels, "retrieval_user")
    return made.features[:, made.names.index("user_profile:plays")].tolist()


@pytest.fixture(scope="module")
def canaries(tmp_path_factory) -> Days:
    """`plays` is the day's own number, 1, 2, …; of user 20 nothing is known on days 2 and 3; values of day 5 came late."""
    declared, home = small.declarations(ttl_days=2), tmp_path_factory.mktemp("canaries")
    moments = tuple(small.MONDAY + days(d) for d in (1, 2, 3, 4, 5))
    for day, moment in enumerate(moments, start=1):
        for path in small.write_constant(home / "offline", declared, moment, float(day)).values():
            rows = pq.read_table(path, partitioning=None)
            if "user_id" in rows.column_names and day in {2, 3}:
                rows = rows.filter(pc.field("user_id") != 20)
            if day == 5:
                late = pa.array([moment + days(0.5)] * len(rows), pa.timestamp("us", "UTC"))
                rows = rows.set_column(
                    rows.column_names.index("created_timestamp"), "created_timestamp", late
                )
            pq.write_table(rows, path)
    return Days(home, declared, moments)


MICROSECOND = timedelta(microseconds=1)


@pytest.mark.parametrize(("user", "day", "found"), [
    pytest.param(10, 2, 2, id="a snapshot as of the very moment"),
    pytest.param(20, 2, 1, id="an older one where the newest lacks the entity"),
    pytest.param(20, 3, 1, id="at the end of its life"),
    pytest.param(20, 3.000001, None, id="past the end of its life"),
    pytest.param(10, 5, 4, id="before a late snapshot was known"),
    pytest.param(10, 5.5, 5, id="as it became known"),
    pytest.param(99, 2, None, id="an entity that never was"),
    pytest.param(None, 2, None, id="no entity"),
    pytest.param(10, 7.000001, None, id="long after the last"),
])  # fmt: skip
def test_the_newest_row_that_was_known_and_has_not_expired_counts(canaries, user, day, found):
    (value,) = one_feature(canaries, [user], [small.MONDAY + days(day)])
    assert value == found or (found is None and np.isnan(value))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*small.USERS, 99]), st.integers(24, 8 * 24)), min_size=1, max_size=30)
)
def test_no_feature_is_younger_than_its_label(canaries, labels):
    """Every value is the day it is from: none is of a day after the label's, nor of one it had outlived."""
    moments = [small.MONDAY + timedelta(hours=h) for _, h in labels]
    for (_, hours), value in zip(labels, one_feature(canaries, [u for u, _ in labels], moments), strict=True):
        assert np.isnan(value) or hours / 24 - 2 <= value <= hours / 24
        assert not (value == 5 and hours < 5.5 * 24)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", None])
def test_a_label_is_an_instant_whatever_its_zone(canaries, zone):
    moments = [small.MONDAY + days(2) - MICROSECOND, small.MONDAY + days(2)]
    assert one_feature(canaries, [10, 10], moments, zone) == [1, 2]


def test_labels_come_back_as_they_were_given(canaries):
    moments = [small.MONDAY + days(d) for d in (3, 1, 3, 2)]
    labels = pa.table({
        "row_id": [4, 3, 2, 1], "as_of": ["x"] * 4, "plays": [9, 9, 9, 9], "user_id": [10, 10, 10, 10],
        "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
    })  # fmt: skip
    made = canaries.made(labels, "retrieval_user")
    assert made.spine.equals(labels)
    assert made.features[:, made.names.index("user_profile:plays")].tolist() == [3, 1, 3, 2]


def test_no_labels_make_an_empty_set(canaries):
    assert canaries.made(some_labels(0).slice(0, 0)).features.shape == (0, len(canaries.declared.service("ranking").digests))  # fmt: skip


def test_labels_without_a_join_key_are_told_so(canaries):
    labels = some_labels(0).filter(pc.field("event_timestamp") >= pa.scalar(small.MONDAY + days(1)))
    with pytest.raises(SpineLacks, match="is joined on 'title_id', but the spine has only: user_id"):
        canaries.made(labels.drop(["title_id"]))


def test_a_feature_that_is_no_number_cannot_be_trained_on(canaries):
    history = FeatureService("history", (canaries.declared.table("user_history"),), "lists")
    with pytest.raises(NotForTraining, match=r"user_history:recent_title_ids .* its values are BIGINT\[\]"):
        training_set(some_labels(0), history, canaries.declared, canaries.home / "offline", canaries.moments)


def rich(rows: int = 6) -> pa.Table:
    """A table of every kind of column, with nulls."""
    return pa.table({
        "i": pa.array([None if r == 2 else r for r in range(rows)], pa.int64()),
        "t": pa.array([None if r == 1 else "é" * r for r in range(rows)]),
        "b": pa.array([None if r == 3 else r % 2 == 0 for r in range(rows)]),
        "l": pa.array([None if r == 4 else [str(r)] * (r % 3) for r in range(rows)], pa.list_(pa.string())),
        "s": pa.array([None if r == 0 else {"x": r, "y": "y"} for r in range(rows)]),
        "m": pa.array(range(rows), pa.timestamp("us", "UTC")),
    })  # fmt: skip


def content(table: pa.Table) -> str:
    found = hashlib.sha256()
    add_content(found, table)
    return found.hexdigest()


def laid_out(table: pa.Table) -> dict[str, pa.Table]:
    """The same rows in other memory."""
    turned = table.take(list(range(len(table)))[::-1])
    amid = pa.concat_tables([turned, table, turned]).combine_chunks()
    text = table.column_names.index("t")
    return {
        "sliced": amid.slice(len(table), len(table)),
        "in chunks": pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1)]),
        "dictionary": table.set_column(text, "t", table["t"].dictionary_encode()),
        "copied": pa.Table.from_pylist(table.to_pylist(), table.schema),
    }


@pytest.mark.parametrize("how", ["sliced", "in chunks", "dictionary", "copied"])
def test_the_content_of_a_spine_is_the_same_however_it_lies_in_memory(how):
    assert content(laid_out(rich())[how]) == content(rich())


def test_what_lies_under_a_null_does_not_count():
    """An array may hold anything where its validity says there is nothing."""
    valid = pa.py_buffer(np.packbits([1, 0, 1], bitorder="little").tobytes())
    values = [pa.py_buffer(np.array([1, x, 3], dtype=np.int64).tobytes()) for x in (0, 99)]
    one, other = (pa.table({"i": pa.Array.from_buffers(pa.int64(), 3, [valid, v])}) for v in values)
    assert content(one) == content(other)


@pytest.mark.parametrize("change", [
    {"i": pa.array([0, 1, 2, 3, 4, 5])}, {"t": pa.array(["", None, "éé", "ééé", "éééé", "é"])},
    {"t": pa.array([None, "", "éé", "ééé", "éééé", "ééééé"])}, {"b": pa.array([True] * 6)},
    {"l": pa.array([[], ["1"], ["2", "2"], [], [], ["5", "5"]], pa.list_(pa.string()))},
    {"s": pa.array([None, *({"x": 9, "y": "y"} for _ in range(5))])}, {"m": pa.array(range(6), pa.timestamp("us"))},
    {"i": rich()["i"].cast(pa.int32())},
])  # fmt: skip
def test_another_value_null_or_type_is_another_content(change):
    ((name, column),) = change.items()
    place = rich().column_names.index(name)
    assert content(rich().set_column(place, name, column)) != content(rich())


def test_columns_of_text_do_not_run_into_one_another():
    assert content(pa.table({"a": ["x", "yz"]})) != content(pa.table({"a": ["xy", "z"]}))
    assert content(pa.table({"a": ["x"], "b": ["y"]})) != content(pa.table({"b": ["x"], "a": ["y"]}))
    assert content(pa.table({"a": [["x"], ["y", "z"]]})) != content(pa.table({"a": [["x", "y"], ["z"]]}))


def test_a_training_sets_digest_is_of_its_rows_its_features_and_the_snapshots_it_used(canaries, tmp_path):
    labels = some_labels(3).filter(pc.field("event_timestamp") >= pa.scalar(small.MONDAY + days(1)))
    one = canaries.made(labels)
    chunks = pa.concat_tables([labels.slice(0, 7), labels.slice(7)])
    assert canaries.made(chunks).digest == one.digest
    assert canaries.made(labels.slice(1)).digest != one.digest
    service = canaries.declared.service("ranking")
    turned = replace(canaries.declared, services=(replace(service, tables=service.tables[::-1]),))
    assert replace(canaries, declared=turned).made(labels).digest != one.digest
    moved = Days(tmp_path, canaries.declared, canaries.moments)
    shutil.copytree(canaries.home / "offline", tmp_path / "offline")
    assert moved.made(labels).digest == one.digest
    used = offline_path(tmp_path / "offline", "user_profile", canaries.moments[3])
    pq.write_table(
        pq.read_table(used, partitioning=None).replace_schema_metadata({"matinee_digest": "other"}), used
    )
    assert moved.made(labels).digest != one.digest


def test_a_snapshot_that_no_label_sees_is_no_part_of_the_digest(canaries):
    early = pa.table({"user_id": [10], "title_id": [100],
                      "event_timestamp": pa.array([small.MONDAY + days(1.5)], pa.timestamp("us", "UTC"))})  # fmt: skip
    fewer = Days(canaries.home, canaries.declared, canaries.moments[:2])
    assert fewer.made(early).digest == canaries.made(early).digest
