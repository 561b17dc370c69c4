"""Skews seeded on purpose, each genuinely computed or published and then served: verification has to see every one."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.compile import compile_table
from feature_repo.compute import offline_path, plan, run
from feature_repo.known import statements
from feature_repo.materialize import PROJECT, materialize
from matinee.day import catalogue, promote
from matinee.deployment import bento_folder, newest_tag
from matinee.progress import Stage, Stages
from matinee.pushing import push_plays
from matinee.recommending import known_users
from matinee.session import console, opened
from matinee.verifying import ALL, NothingToVerify, Verifier, Wanted, verify_day
from registry import NoEvidence
from serving.answers import PageRequest
from serving.deadline import Deadline
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import Manifest
from serving.page import Homepage
from serving.samples import SampleLog, newest

pytestmark = pytest.mark.slow

PAGES = 12


@dataclass(frozen=True)
class Side:
    """An online side of its own: where its snapshots and its samples lie."""

    root: Path

    @property
    def online(self) -> Path:
        return self.root / "online"

    @property
    def samples(self) -> Path:
        return self.root / "samples"


@pytest.fixture
def side(tmp_path):
    return Side(tmp_path)


def computed(day, folder, as_of=None, register=None):
    """The day's tables, computed as `matinee day` does but from what `register` makes of the events."""
    as_of = as_of or day.as_of
    steps = plan(day.workspace.declarations, [as_of], lambda _: "test", folder)
    run(steps, "world", register or day.workspace.lake.register, threads=1)
    return {t.name: offline_path(folder, t.name, as_of) for t in day.workspace.declarations.stored}


def stored_files(day):
    declarations = day.workspace.declarations
    return {t.name: offline_path(day.workspace.offline, t.name, day.as_of) for t in declarations.stored}


def changed(day, side, table, change):
    """The day's files, one of them with `change` made to its Arrow table."""
    files = stored_files(day)
    path = side.root / f"{table}.parquet"
    pq.write_table(change(pq.read_table(files[table], partitioning=None)), path)
    return files | {table: path}


def published(day, side, files):
    materialize(day.workspace.declarations, files, side.online, PROJECT, catalogue(day))
    return side


def serve(day, side, *, users=None, at=None, apart=timedelta(seconds=1)):
    """Pages of known users, made by the Bento's own core over this online side; every request is logged."""
    folder = bento_folder(day, newest_tag(day, "homepage"))
    folders = replace(
        Folders.of(folder, day.workspace.root), online=side.online, exposures=side.root / "exposures",
        samples=side.samples,
    )  # fmt: skip
    users, at, ids = (
        users or known_users(day)[:PAGES],
        at or day.as_of + timedelta(seconds=1),
        itertools.count(),
    )
    with ExitStack() as logs:
        name = f"{time.time_ns()}"
        exposures = logs.enter_context(ExposureLog(folders.exposures, name=name))
        samples = logs.enter_context(SampleLog(side.samples, name=name, share=1))
        home = Homepage(
            LiveSource(folders, Manifest.load(folder)), exposures, lambda: f"{name}-{next(ids)}", samples
        )
        pages = [
            home.page(
                PageRequest(user_id=user, size=20), at + n * apart, Deadline.within(10_000, time.monotonic)
            )
            for n, user in enumerate(users)
        ]
    assert {page.source for page in pages} == {"ranked"}
    return pages


def verified(day, side):
    """Service → its verdict, by the very Verifier of `matinee features verify`."""
    verdicts = Verifier(day.desk).verify(Wanted(generation=ALL).of(newest(side.samples)))
    return {verdict.service.name: verdict for verdict in verdicts}


def named(verdicts):
    """The features found in any service."""
    return {finding.feature for verdict in verdicts.values() for finding in verdict.findings}


def really_differ(day, side, files):
    """`table:feature` of the stored features that differ, for what was served, between the files and the right ones.

    The slow and obvious way: row by row from both Parquet files.
    """
    samples = list(newest(side.samples))
    users = {sample.user_id for sample in samples}
    titles = {t for s in samples for v in s.vectors for t in v.title_ids.tolist()}
    right, found = stored_files(day), set()
    for service in ("ranking", "retrieval_user", "artwork_context"):
        for table in day.workspace.declarations.service(service).tables:
            if table.stored:
                ids = users if table.entity.name == "user" else titles
                key = table.entity.join_key
                mine, theirs = (
                    {
                        row[key]: row
                        for row in pq.read_table(path, partitioning=None).to_pylist()
                        if row[key] in ids
                    }
                    for path in (files[table.name], right[table.name])
                )
                found |= {
                    f"{table.name}:{f}"
                    for f in table.names
                    if any(mine.get(i, {}).get(f) != theirs[i][f] for i in theirs)
                }
    return found


def test_a_healthy_day_is_served_as_it_is_computed_bit_for_bit(opened_day, side):
    published(opened_day, side, stored_files(opened_day))
    serve(opened_day, side)
    verdicts = verified(opened_day, side)
    assert set(verdicts) == {"ranking", "retrieval_user", "artwork_context"}
    for name, verdict in verdicts.items():
        assert verdict.passed, [str(finding) for finding in verdict.findings[:5]]
        service = opened_day.workspace.declarations.service(name)
        assert verdict.compared == verdict.rows * len(service.digests)
        assert (verdict.requests, verdict.tolerance) == (PAGES, 0.0)
    assert verdicts["ranking"].rows == PAGES * 20


def test_events_in_another_time_zone_are_seen(opened_day, side):
    def five_hours_off(connection):
        opened_day.workspace.lake.register(connection)
        for table in ("plays", "impressions", "hovers"):
            columns = ", ".join(
                f"{c} - INTERVAL 5 HOUR AS {c}" for c in ("event_timestamp", "created_timestamp")
            )
            connection.execute(
                f"ALTER VIEW {table} RENAME TO {table}_utc; CREATE VIEW {table} AS SELECT * REPLACE ({columns}) FROM {table}_utc"
            )

    files = computed(opened_day, side.root / "offline", register=five_hours_off)
    serve(opened_day, published(opened_day, side, files))
    found = named(verified(opened_day, side))
    expected = really_differ(opened_day, side, files)
    assert any("_night" in name or "_evening" in name or "_morning" in name for name in expected)
    assert expected <= found
    arithmetic = {name for name in found if name.startswith("user_title:")}
    # what is not in the expected set is what reads it: user × title arithmetic, and sessions of the kept plays
    assert {n for n in found - expected - arithmetic if not n.startswith("user_session:")} == set()


def test_a_window_that_ends_an_event_too_far_is_seen(opened_day, side):
    """Windows that are closed at the far edge's other side: (as_of - n days, as_of] in place of [as_of - n days, as_of)."""
    day = opened_day
    with day.desk.events() as connection:
        ((user, edge),) = connection.sql(
            "SELECT user_id, event_timestamp FROM plays WHERE event_timestamp < TIMESTAMPTZ '2026-01-07 12:00:00+00'"
            " ORDER BY event_timestamp DESC LIMIT 1"
        ).fetchall()
    as_of = edge + timedelta(
        days=7
    )  # this play lies on the far edge of the last seven days, which belongs to them
    at_the_edge = replace(day, as_of=as_of)
    files = computed(at_the_edge, side.root / "right", as_of)
    wrong = skewed_windows(at_the_edge, side.root / "wrong", as_of, files)
    published(at_the_edge, side, wrong)
    serve(at_the_edge, side, users=[user, *known_users(day)[:3]], at=as_of + timedelta(seconds=1))
    found = verified(at_the_edge, side)
    assert "user_profile:play_count_7d" in named(found)
    examples = [
        example for verdict in found.values() for finding in verdict.findings
        if finding.feature == "user_profile:play_count_7d" for example in finding.examples
    ]  # fmt: skip
    assert {(example.user_id, example.offline - example.online) for example in examples} == {(user, 1)}
    assert "user_profile:play_count_28d" not in named(found)


def skewed_windows(day, folder, as_of, files):
    """The tables from `known_*` relations in which a day is counted as one longer exactly at its edge."""
    folder.mkdir()
    source, made = day.workspace.source, {}
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        day.workspace.lake.register(connection)
        for name, sql in statements(source, as_of):
            off = sql.replace(
                "+ 86399999999) // 86400000000 AS days_ago", "+ 86400000000) // 86400000000 AS days_ago"
            )
            connection.execute(f"CREATE TEMP TABLE {name} AS {off}")
        for table in day.workspace.declarations.stored:
            if table.keep > 1:
                made[table.name] = files[table.name]
                continue
            made[table.name] = folder / f"{table.name}.parquet"
            moment = f"TIMESTAMPTZ '{as_of.isoformat()}'"
            connection.execute(
                f"COPY (SELECT *, {moment} AS event_timestamp, {moment} AS created_timestamp"
                f" FROM ({compile_table(table, source)})) TO '{made[table.name]}' (FORMAT parquet)"
            )
    return made


def test_zero_in_place_of_null_is_seen_as_extra(opened_day, side):
    feature = "watch_share_mean_1d"
    table = next(
        t.name
        for t in opened_day.workspace.declarations.stored
        if feature in t.names and t.entity.name == "user"
    )

    def zero_for_null(rows):
        place = rows.schema.get_field_index(feature)
        return rows.set_column(place, rows.schema.field(place), rows[feature].fill_null(0.0))

    files = changed(opened_day, side, table, zero_for_null)
    serve(opened_day, published(opened_day, side, files))
    found = {f.feature: f for f in verified(opened_day, side)["ranking"].findings}
    finding = found[f"{table}:{feature}"]
    assert (finding.mismatch, finding.missing) == (0, 0)
    assert finding.extra > 0
    assert {(example.online, example.offline) for example in finding.examples} == {(0.0, None)}
    assert {name for name in found if not name.startswith("user_title:")} == {f"{table}:{feature}"}


@pytest.mark.parametrize(
    "rounded",
    [
        pytest.param(lambda column: column.astype(np.float16).astype(np.float32), id="to float16"),
        pytest.param(
            lambda column: np.nextafter(column, np.float32(np.inf)), id="by one unit in the last place"
        ),
    ],
)
def test_rounding_on_the_way_is_seen(opened_day, side, rounded):
    feature = "watch_minutes_sum_7d"
    table = next(
        t.name
        for t in opened_day.workspace.declarations.stored
        if feature in t.names and t.entity.name == "user"
    )

    def narrow(rows):
        place = rows.schema.get_field_index(feature)
        values = rounded(rows[feature].to_numpy())
        return rows.set_column(place, rows.schema.field(place), pa.array(values, from_pandas=True))

    files = changed(opened_day, side, table, narrow)
    serve(opened_day, published(opened_day, side, files))
    found = named(verified(opened_day, side))
    assert f"{table}:{feature}" in found
    assert really_differ(opened_day, side, files) == {
        name for name in found if not name.startswith("user_title:")
    }


def test_yesterdays_vectors_under_todays_date_are_seen(opened_day, side):
    yesterday = opened_day.as_of - timedelta(days=1)
    files = {}
    for name, path in computed(opened_day, side.root / "offline", yesterday).items():
        rows = pq.read_table(path, partitioning=None)
        if name != "recent_plays":
            for column in ("event_timestamp", "created_timestamp"):
                place = rows.schema.get_field_index(column)
                today = pa.array([opened_day.as_of] * len(rows), rows.schema.field(place).type)
                rows = rows.set_column(place, rows.schema.field(place), today)
        files[name] = side.root / f"{name}.parquet"
        pq.write_table(rows, files[name])
    published(opened_day, side, files)
    known = set(pq.read_table(files["user_profile"], partitioning=None)["user_id"].to_pylist())
    serve(opened_day, side, users=[user for user in known_users(opened_day) if user in known][:PAGES])
    found = named(verified(opened_day, side))
    expected = really_differ(opened_day, side, files)
    assert {"user_profile:days_member"} & expected
    assert expected <= found


def test_two_columns_swapped_are_seen_and_each_says_whose_values_it_holds(opened_day, side):
    table = opened_day.workspace.declarations.table("user_activity")
    rows = pq.read_table(stored_files(opened_day)["user_activity"], partitioning=None)
    spread = {name: len(set(rows[name].to_pylist())) for name in table.names}
    one, other = sorted(spread, key=spread.__getitem__, reverse=True)[:2]

    def swap(rows):
        renamed = {one: other, other: one}
        return rows.rename_columns([renamed.get(name, name) for name in rows.column_names])

    files = changed(opened_day, side, "user_activity", swap)
    serve(opened_day, published(opened_day, side, files))
    found = {f.feature: f for f in verified(opened_day, side)["ranking"].findings}
    stored = {name: finding for name, finding in found.items() if not name.startswith("user_title:")}
    assert set(stored) == {f"user_activity:{one}", f"user_activity:{other}"}
    assert f"user_activity:{other}" in stored[f"user_activity:{one}"].holds
    assert f"user_activity:{one}" in stored[f"user_activity:{other}"].holds


# --- pushes --------------------------------------------------------------------------------------------


@pytest.fixture
def own_day(a_day, environment, tmp_path, monkeypatch):
    """A copy of the day's workspace, whose events may change."""
    shutil.copytree(a_day, tmp_path / "copy" / "world")
    for name in ("MATINEE_WORLD", "MATINEE_THREADS"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("MATINEE_WORKSPACES", str(tmp_path / "copy"))
    with opened("world") as day:
        yield day


def play(day, number, user, happened, known=timedelta(seconds=2)):
    with day.desk.events() as connection:
        like = connection.sql("SELECT * FROM plays LIMIT 1").to_arrow_table()
    values = {
        "play_id": 10**9 + number, "user_id": user, "event_timestamp": happened, "created_timestamp": happened + known,
        "impression_id": None, "request_id": None,
    }  # fmt: skip
    columns = {
        name: pa.array([values[name]], like.schema.field(name).type) if name in values else like[name]
        for name in like.column_names
    }
    return pa.table(columns)


def test_a_page_after_a_push_is_served_as_computed(own_day):
    day, side = own_day, Side(own_day.workspace.root)
    users = known_users(day)[:4]
    start = day.as_of + timedelta(minutes=1)
    for number, user in enumerate(users[:3]):
        for again in range(number + 1):
            one = play(day, 10 * number + again, user, start + timedelta(minutes=again))
            push_plays(day.workspace, one, received_at=start + timedelta(hours=1), record=True)
    later = start + timedelta(minutes=20)
    serve(day, side, users=users, at=later)
    verdicts = verified(day, side)
    assert named(verdicts) == set()
    session = [v for s in newest(side.samples) for v in s.vectors if v.layout.service == "ranking"]
    counted = {
        float(v.values[0, v.layout.features.index("user_session:play_count_session")]) for v in session
    }
    assert {1.0, 2.0} <= counted  # so that there was something to get wrong


def test_a_push_that_raw_events_never_heard_of_is_seen(own_day):
    day, side = own_day, Side(own_day.workspace.root)
    user, start = known_users(day)[0], day.as_of + timedelta(minutes=1)
    push_plays(day.workspace, play(day, 1, user, start), received_at=start + timedelta(hours=1), record=False)
    serve(day, side, users=[user], at=start + timedelta(minutes=5))
    found = named(verified(day, side))
    assert "user_session:minutes_since_last_play" in found
    assert {name.partition(":")[0] for name in found} == {"user_session"}


@pytest.mark.parametrize(
    ("apart", "excused"),
    [
        pytest.param(timedelta(milliseconds=900), True, id="known less than a second before the request"),
        pytest.param(timedelta(milliseconds=1100), False, id="known more than a second before it"),
    ],
)
def test_a_push_under_way_when_the_request_was_answered_is_no_finding(own_day, apart, excused):
    day, side = own_day, Side(own_day.workspace.root)
    user, happened = known_users(day)[0], day.as_of + timedelta(minutes=1)
    one = play(day, 1, user, happened)
    serve(day, side, users=[user], at=happened + timedelta(seconds=2) + apart)  # before the push has come
    day.workspace.lake.append("plays", one, received_at=happened + timedelta(hours=1))
    verdict = verified(day, side)["ranking"]
    assert verdict.passed == excused
    assert (verdict.in_flight > 0) == excused


# --- the command, the ledger, the champion -------------------------------------------------------------


def test_the_champion_stays_while_a_skew_is_live_and_moves_once_it_is_mended(own_day, shell, tmp_path):
    day, side = own_day, Side(own_day.workspace.root)
    workspaces = {"MATINEE_WORKSPACES": str(day.workspace.root.parent)}
    right, ranker = stored_files(day), day.registry.get("ranker/1")
    day.registry.remove_alias("ranker", "champion", by="test", reason="to move it again")

    def forty_two(rows):
        place = rows.schema.get_field_index("days_member")
        return rows.set_column(place, rows.schema.field(place), pa.array([42.0] * len(rows), pa.float32()))

    shutil.rmtree(side.online)
    published(day, side, changed(day, Side(tmp_path), "user_profile", forty_two))
    serve(day, side)
    failed = json.loads(shell("matinee features verify --json", fails=True, **workspaces).stdout)
    found = {f["feature"]: f for verdict in failed for f in verdict["findings"]}
    assert found["user_profile:days_member"]["examples"][0]["online"] == 42.0
    refused = shell("matinee models promote ranker/1", fails=True, **workspaces).stderr
    refused = " ".join(refused.split())
    assert "user_profile:days_member" in refused
    assert "matinee features verify --source world" in refused
    with pytest.raises(NoEvidence, match="days_member"):
        promote(day, [replace(ranker, aliases=())], Stage("promote", Stages(console)))

    shutil.rmtree(side.online)
    published(day, side, right)
    with pytest.raises(NoEvidence):  # mended, but nobody has looked
        day.registry.promote("ranker/1", by="test", reason="mended")
    serve(day, side)
    assert "served as computed" in shell("matinee features verify", **workspaces).stdout
    promote(day, [replace(ranker, aliases=())], Stage("promote", Stages(console)))
    (*_, move) = day.registry.alias_history("ranker")
    assert move.evidence["consistency"]["ranking"]["passed"] is True


def test_without_logged_requests_there_is_nothing_to_verify_and_no_verdict(own_day):
    shutil.rmtree(own_day.workspace.root / "samples", ignore_errors=True)
    before = own_day.registry.consistency("world")
    with pytest.raises(NothingToVerify, match="Serve pages first"):
        verify_day(own_day, Wanted(), Stage("verify", Stages(console)))
    assert own_day.registry.consistency("world") == before


def test_which_requests_are_looked_at_is_the_callers_choice(opened_day, side):
    published(opened_day, side, stored_files(opened_day))
    pages = serve(opened_day, side)
    generation = pages[0].generation

    def ids(**wanted):
        return [sample.request_id for sample in Wanted(**wanted).of(newest(side.samples))]

    asked = [page.request_id for page in pages][::-1]
    assert ids(generation=ALL) == ids(generation=generation) == asked
    assert ids(generation="another") == []
    assert ids(generation=ALL, limit=3) == asked[:3]
    since: datetime = opened_day.as_of + timedelta(seconds=1 + PAGES - 2)
    assert ids(generation=ALL, since=since) == asked[:2]
    assert "no logged request of generation x" in str(NothingToVerify(side.samples, " of generation x"))
