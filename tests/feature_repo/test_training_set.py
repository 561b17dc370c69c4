from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from raw_events import NOON, SECOND, days, play, register

from events.sources import WORLD
from feature_repo.arithmetic import evaluate
from feature_repo.compute import Step, offline_path, plan, run, stamp
from feature_repo.declarations import Derived
from feature_repo.families import declare
from feature_repo.training_set import NoSnapshot, snapshot_matrix, training_set

DECLARED = declare(WORLD)
AS_OFS = [NOON - days(2), NOON - days(1), NOON]
PLAYS = [play(NOON - days(d), title_id=t, user_id=u, watch_minutes=10.0 * d, watch_share=0.25)
         for d in (0.5, 1.5, 2.5, 4) for t in (10, 11) for u in (1, 2)]  # fmt: skip


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    steps = plan(DECLARED, AS_OFS, lambda _: "events", folder)
    run(steps, "world", lambda connection: register(connection, PLAYS), threads=1)
    return folder


def spine(*labels: tuple[int, int, datetime]) -> pa.Table:
    users, titles, moments = zip(*labels, strict=True)
    return pa.table({
        "user_id": pa.array(users, pa.int64()), "title_id": pa.array(titles, pa.int64()),
        "event_timestamp": pa.array(moments, pa.timestamp("us", tz="UTC")),
    })  # fmt: skip


def test_each_label_gets_the_newest_snapshot_that_is_not_younger_than_it(offline):
    labels = spine((1, 10, NOON + SECOND), (1, 10, NOON), (1, 10, NOON - SECOND), (2, 11, NOON - days(2)))
    made = training_set(labels, DECLARED.service("ranking"), DECLARED, offline, AS_OFS, threads=1)
    table = DECLARED.table("user_profile")
    column = made.names.index("user_profile:play_count_28d")
    for row, as_of, user in ((0, NOON, 1), (1, NOON, 1), (2, AS_OFS[1], 1), (3, AS_OFS[0], 2)):
        ids, matrix = snapshot_matrix(offline_path(offline, table.name, as_of), table)
        expected = matrix[list(ids).index(user), table.names.index("play_count_28d")]
        assert made.features[row, column] == expected


def test_a_label_older_than_every_snapshot_is_refused(offline):
    with pytest.raises(NoSnapshot, match="needs features known before it"):
        training_set(
            spine((1, 10, AS_OFS[0] - SECOND)), DECLARED.service("ranking"), DECLARED, offline, AS_OFS
        )


def test_a_title_unknown_at_that_time_has_unknown_features_and_keeps_its_place(offline):
    made = training_set(
        spine((1, 999, NOON), (1, 10, NOON)), DECLARED.service("ranking"), DECLARED, offline, AS_OFS
    )
    titles = [i for i, name in enumerate(made.names) if name.startswith("title_")]
    assert np.isnan(made.features[0, titles]).all()
    assert not np.isnan(made.features[1, titles]).all()


def test_user_title_features_in_sql_equal_their_numpy_evaluation_bit_for_bit(offline):
    labels = spine(*[(u, t, NOON) for u in (1, 2) for t in (10, 11, 12)])
    made = training_set(labels, DECLARED.service("ranking"), DECLARED, offline, AS_OFS, threads=1)
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
        training_set(labels, service, DECLARED, offline, AS_OFS).digest
        for labels in (spine((1, 10, NOON)), spine((1, 10, NOON)), spine((1, 11, NOON)))
    )
    assert first == again != other


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
    register_plays = lambda connection: register(connection, PLAYS)  # noqa: E731
    run(plan(DECLARED, [NOON], lambda _: "events", tmp_path), "world", register_plays, threads=1)
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
