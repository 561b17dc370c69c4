"""Which row a label sees, against looking at every row for every label."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.point_in_time import ColumnMissing, History, SpineLacks, engine, find, gather, quoted


@dataclass(frozen=True)
class Row:
    """A row of a feature table; times are ticks, µs or ns."""

    key: int | None
    event: int | None
    created: int | None


@dataclass(frozen=True)
class Label:
    key: int | None
    at: int | None


def by_hand(rows: list[Row], label: Label, ttl: int | None, known_only: bool) -> int | None:
    """The index of the row the label sees, one row at a time."""
    best, best_rank = None, None
    for index, row in enumerate(rows):
        if None in (label.key, label.at, row.key, row.event) or row.key != label.key:
            continue
        if row.event > label.at or (ttl is not None and row.event + ttl < label.at):
            continue
        if known_only and (row.created is None or row.created > label.at):
            continue
        rank = (row.event, -1 if row.created is None else row.created, index)
        if best_rank is None or rank > best_rank:
            best, best_rank = index, rank
    return best


def seen(rows: list[Row], labels: list[Label], ttl: int | None = None, *, known_only: bool = True, unit: str = "us",
         zone: str = "UTC", files: int = 1) -> list[int | None]:  # fmt: skip
    """The same by `find`: rows lie in `files` files, `ttl` is in µs."""
    stamp = pa.timestamp(unit, "UTC")
    table = pa.table({
        "k": pa.array([r.key for r in rows], pa.int64()),
        "event": pa.array([r.event for r in rows], pa.int64()).cast(stamp),
        "created": pa.array([r.created for r in rows], pa.int64()).cast(stamp),
        "index": pa.array(range(len(rows)), pa.int64()),
    })  # fmt: skip
    spine = pa.table({
        "key": pa.array([label.key for label in labels], pa.int64()),
        "at": pa.array([label.at for label in labels], pa.int64()).cast(pa.timestamp(unit, zone)),
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, engine(1) as connection:
        cuts = np.linspace(0, len(rows), files + 1).astype(int)
        paths = tuple(Path(folder) / f"{i}.parquet" for i in range(files))
        for path, start, end in zip(paths, cuts, cuts[1:], strict=False):
            pq.write_table(table.slice(start, end - start), path)
        lifetime = None if ttl is None else timedelta(microseconds=ttl)
        history = History("h", paths, (("key", "k"),), "event", "created", lifetime)
        found = find(connection, spine, "at", history, known_only=known_only)
        columns = gather(connection, found, history, [quoted("index")], ["index"], len(labels))
        return columns["index"].to_pylist()


ticks = st.integers(0, 12)
keys = st.sampled_from([1, 1, 2, None])
rows_of = st.lists(st.builds(Row, keys, ticks | st.none(), ticks | st.none()), max_size=14)
labels_of = st.lists(st.builds(Label, keys, ticks | st.none()), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    rows_of, labels_of, st.none() | st.integers(1, 8), st.booleans(),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"]), st.integers(1, 3),
)  # fmt: skip
@example([Row(1, 3, 3), Row(1, 5, 9), Row(1, 4, 4)], [Label(1, 8), Label(1, 9)], None, True, "UTC", 1)
@example([Row(1, 5, 5), Row(1, 2, 7)], [Label(1, 7), Label(1, 9)], 4, True, "UTC", 2)
def test_every_label_sees_the_row_that_looking_at_all_of_them_finds(
    rows, labels, ttl, known_only, zone, files
):
    expected = [by_hand(rows, label, ttl, known_only) for label in labels]
    assert seen(rows, labels, ttl, known_only=known_only, zone=zone, files=files) == expected


@settings(max_examples=40, deadline=None)
@given(rows_of, labels_of, st.booleans())
def test_nanoseconds_are_told_apart(rows, labels, known_only):
    expected = [by_hand(rows, label, None, known_only) for label in labels]
    assert seen(rows, labels, known_only=known_only, unit="ns") == expected


@settings(max_examples=60, deadline=None)
@given(rows_of, labels_of, st.none() | st.integers(1, 8))
def test_what_happened_or_became_known_after_a_label_never_reaches_it(rows, labels, ttl):
    for label, index in zip(labels, seen(rows, labels, ttl), strict=True):
        if index is not None:
            assert max(rows[index].event, rows[index].created) <= label.at


@pytest.mark.parametrize(("at", "found"), [
    pytest.param(99, None, id="one µs before it happened"),
    pytest.param(100, 0, id="as it happened"),
    pytest.param(150, 0, id="exactly at the end of its life"),
    pytest.param(151, None, id="one µs past it"),
])  # fmt: skip
def test_a_row_is_seen_from_its_own_moment_to_the_end_of_its_life_both_included(at, found):
    assert seen([Row(1, 100, 100)], [Label(1, at)], ttl=50) == [found]


@pytest.mark.parametrize(("at", "found"), [
    pytest.param(119, 0, id="one µs before it was known"),
    pytest.param(120, 1, id="as it became known"),
])  # fmt: skip
def test_a_late_row_is_seen_from_when_it_became_known(at, found):
    assert seen([Row(1, 50, 50), Row(1, 100, 120)], [Label(1, at)]) == [found]


def test_a_late_row_that_is_older_than_what_is_known_changes_nothing():
    assert seen([Row(1, 100, 100), Row(1, 50, 150)], [Label(1, 200)]) == [0]


@pytest.mark.parametrize(("ns", "found"), [(999, None), (1000, 3.0), (1001, 3.0)])
def test_a_label_in_nanoseconds_is_not_rounded_to_a_row_in_microseconds(tmp_path, ns, found):
    """The row is of 1 µs; rounding would show it to a label half of one before."""
    spine = pa.table({"key": [1], "at": pa.array([ns], pa.timestamp("ns", "UTC"))})
    assert look(tmp_path, (("key", "k"),), spine, value=[3.0])["value"].to_pylist() == [found]


def test_of_rows_equal_in_both_times_the_one_written_last_is_seen():
    twins = [Row(1, 5, 5), Row(1, 5, 5), Row(1, 5, 5)]
    assert [seen(twins, [Label(1, 9)], files=n) for n in (1, 2, 3)] == [[2], [2], [2]]


def test_histories_with_the_same_rows_are_looked_up_once_and_no_others(tmp_path):
    """Same keys and times in the same places: the values may differ, the time to live and what is known may not."""
    paths = {name: tmp_path / f"{name}.parquet" for name in ("one", "other values", "other rows")}
    for i, path in enumerate(paths.values()):
        times = pa.array([0, 5 if i == 2 else 10], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"k": [1, 1], "event": times, "created": times, "value": [i, i]}), path)
    spine = pa.table({"key": [1, 2], "at": pa.array([9, 9], pa.timestamp("us", "UTC"))})
    found: dict[tuple[object, ...], str] = {}

    def look_up(name: str, days: int, known_only: bool = True) -> str:
        history = History(f"{name} {days} {known_only}", (paths[name],), (("key", "k"),), "event", "created", timedelta(days))  # fmt: skip
        return find(connection, spine, "at", history, known_only=known_only, found=found)

    with engine(1) as connection:
        first = look_up("one", 1)
        assert look_up("other values", 1) == first
        others = [look_up("other rows", 1), look_up("one", 2), look_up("one", 1, known_only=False)]
        assert len({first, *others}) == 4


def a_file(folder: Path, **columns: object) -> tuple[Path, ...]:
    times = {name: pa.array([1], pa.timestamp("us", "UTC")) for name in ("event", "created")}
    pq.write_table(pa.table({"k": [1], **times, **columns}), folder / "a.parquet")
    return (folder / "a.parquet",)


def look(folder: Path, keys, spine: pa.Table, event: str = "event", **columns: object) -> pa.Table:
    history = History("h", a_file(folder, **columns), keys, event, "created", None)
    with engine(1) as connection:
        found = find(connection, spine, "at", history)
        names = list(columns)
        return gather(connection, found, history, [quoted(n) for n in names], names, len(spine))


AT = pa.array([1, 1], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize(
    "name", ["rn", "x_y", "event", "place", "row_id", "k0", "rank", "known", "label", "l", "n"]
)
def test_a_column_may_have_any_name(tmp_path, name):
    values = {name: [7.0]} if name != "event" else {}
    found = look(tmp_path, (("key", "k"),), pa.table({"key": [1, 2], "at": AT}), **values)
    assert [found[n].to_pylist() for n in values] == [[7.0, None]] * len(values)


def test_all_of_several_keys_must_be_equal(tmp_path):
    spine = pa.table({"a": [1, 1], "b": ["x", "y"], "at": AT})
    found = look(tmp_path, (("a", "k"), ("b", "other")), spine, other=["y"], value=[3.0])
    assert found["value"].to_pylist() == [None, 3.0]


def test_without_keys_every_label_sees_the_newest_row(tmp_path):
    assert look(tmp_path, (), pa.table({"at": AT}), value=[3.0])["value"].to_pylist() == [3.0, 3.0]


def test_a_spine_without_the_key_is_told_what_it_has(tmp_path):
    with pytest.raises(SpineLacks, match="h is joined on 'key', but the spine has only: user, at"):
        look(tmp_path, (("key", "k"),), pa.table({"user": [1, 2], "at": AT}))


@pytest.mark.parametrize(("keys", "event", "columns", "said"), [
    ((("key", "kk"),), "event", {}, "no column 'kk' to join on"),
    ((("key", "k"),), "happened", {}, "no column 'happened' that says when"),
    ((("key", "k"),), "event", {"file_row_number": [1]}, "may not be named 'file_row_number'"),
])  # fmt: skip
def test_a_file_that_cannot_be_joined_is_named_with_the_reason(tmp_path, keys, event, columns, said):
    with pytest.raises(ColumnMissing, match=f"a.parquet: .*{said}"):
        look(tmp_path, keys, pa.table({"key": [1, 2], "at": AT}), event, **columns)
