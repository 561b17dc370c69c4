"""Plays that are pushed while pages are served: in this process, through Feast, and to a served Bento."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from events.lake import RowsRefused
from feature_repo.reader import OnlineReader
from feature_repo.snapshot import microseconds
from feature_repo.training_set import training_set
from matinee.datasets import histories, spine_of
from matinee.deployment import newest_tag
from matinee.pushing import push_plays
from matinee.recommending import known_users, looker
from serving.answers import PageRequest
from serving.client import PageClient
from serving.deadline import Deadline
from serving.running import Serving, free_port, served

pytestmark = pytest.mark.slow
SIZE, MINUTE = 12, timedelta(minutes=1)
FIRST_ID = 10**15  # beyond the world's own plays
new_ids = iter(range(FIRST_ID, FIRST_ID + 10_000))


def plays(*rows: tuple[int, int, datetime], known_after: timedelta = timedelta(0)) -> pa.Table:
    """(user, title, when) as raw plays."""
    moment = pa.timestamp("us", "UTC")
    return pa.table({
        "play_id": pa.array([next(new_ids) for _ in rows], pa.int64()),
        "user_id": pa.array([user for user, _, _ in rows], pa.int64()), "title_id": pa.array([title for _, title, _ in rows], pa.int64()),
        "event_timestamp": pa.array([when for *_, when in rows], moment),
        "created_timestamp": pa.array([when + known_after for *_, when in rows], moment),
    })  # fmt: skip


def push(day, rows: pa.Table, *, record: bool = False):
    return push_plays(day.workspace, rows, received_at=datetime.now(UTC), record=record)


@pytest.fixture
def now(copied_day):
    """Noon of the day whose snapshot is served."""
    return copied_day.as_of + timedelta(hours=12)


@pytest.fixture
def user(copied_day, now):
    """Somebody who has not played for a day."""
    reader = OnlineReader.open(copied_day.workspace.online)
    title = reader.catalogue.title_ids[:1]
    place = list(reader.digests("ranking")).index("user_session:minutes_since_last_play")
    quiet = (
        u for u in known_users(copied_day) if np.isnan(reader.matrix("ranking", u, title, at=now)[0, place])
    )
    return next(u for u in quiet if not (reader.recent(u).columns["play_id"] >= FIRST_ID).any())


def a_page(look, user, now):
    request = PageRequest(user_id=user, size=SIZE)
    return look.core.page(request, now, Deadline.within(10_000, time.monotonic))


def session(reader: OnlineReader, user: int, now: datetime) -> dict[str, float]:
    row = reader.matrix("ranking", user, reader.catalogue.title_ids[:1], at=now)[0]
    named = zip(reader.digests("ranking"), row.tolist(), strict=True)
    return {name.split(":")[1]: value for name, value in named if name.startswith("user_session:")}


def genres_of(reader: OnlineReader, title: int) -> dict[str, float]:
    row = reader.vector("retrieval_title", title).tolist()
    named = zip(reader.digests("retrieval_title"), row, strict=True)
    return {name.split(":in_")[1]: value for name, value in named if ":in_" in name}


def test_the_page_after_a_push_knows_the_session_and_leaves_the_title_out(copied_day, user, now):
    with looker(copied_day) as look:
        before = a_page(look, user, now)
        reader = look.source.current().reader
        assert session(reader, user, now)["play_count_session"] == 0
        first, second = (title.title_id for title in before.titles[:2])
        push(copied_day, plays((user, second, now - 20 * MINUTE), (user, first, now - 5 * MINUTE)))
        look.source.look()

        after, reader = a_page(look, user, now), look.source.current().reader
    assert (before.source, after.source) == ("ranked", "ranked")
    assert not {first, second} & {title.title_id for title in after.titles}
    said = session(reader, user, now)
    assert (said["minutes_since_last_play"], said["play_count_session"]) == (5, 2)
    flags = genres_of(reader, first)
    assert {
        name.removeprefix("last_genre_"): v for name, v in said.items() if name.startswith("last_genre_")
    } == flags
    assert 1 in flags.values()
    again = {title.title_id: title.scores.play for title in after.titles}
    both = [title for title in before.titles if title.title_id in again]
    assert any(title.scores.play != again[title.title_id] for title in both)


def test_a_recorded_push_is_the_same_session_to_a_training_set_as_to_a_request(copied_day, user, now):
    reader = OnlineReader.open(copied_day.workspace.online)
    titles = reader.catalogue.title_ids[:7]
    rows = plays((user, int(titles[0]), now - 45 * MINUTE), (user, int(titles[1]), now - 10 * MINUTE))
    recorded = push(copied_day, rows, record=True).recorded
    assert recorded is not None
    assert (recorded.accepted, recorded.quarantined, recorded.repeated) == (2, 0, 0)
    assert push(copied_day, rows, record=True).recorded.repeated == 2
    reader.refresh()
    declared = copied_day.workspace.declarations
    spine = spine_of(np.full(len(titles), user), titles, now)
    made = training_set(spine, declared.service("ranking"), declared, copied_day.workspace.offline, [copied_day.as_of],
                        events=copied_day.workspace.lake.register, threads=1)  # fmt: skip
    served_row = reader.matrix("ranking", user, titles, at=now)
    np.testing.assert_array_equal(served_row, made.features)
    place = made.names.index("user_session:minutes_since_last_play")
    assert made.features[:, place].tolist() == [10] * 7


def test_online_histories_are_those_the_retriever_was_trained_on(copied_day):
    reader = OnlineReader.open(copied_day.workspace.online)
    users = np.array(known_users(copied_day), dtype=np.int64)
    offline = histories(copied_day.desk, users, copied_day.as_of)
    for place, user in enumerate(users.tolist()):
        recent = reader.recent(user)
        if not (recent.created >= microseconds(copied_day.as_of)).any():  # but for those who played since
            np.testing.assert_array_equal(reader.history(user), offline.of(place))


def test_a_snapshot_is_published_with_the_plays_that_became_known_since(copied_day):
    reader = OnlineReader.open(copied_day.workspace.online)
    with copied_day.desk.events() as connection:
        since = connection.execute(
            "SELECT user_id, play_id FROM plays WHERE created_timestamp >= ? AND play_id < ?", [copied_day.as_of, FIRST_ID]
        ).fetchall()  # fmt: skip
    assert since
    assert all(play_id in reader.recent(user).columns["play_id"] for user, play_id in since)


@pytest.mark.parametrize(("change", "reason"), [
    pytest.param({"user_id": None}, "user_id null is null", id="nobody's play"),
    pytest.param({"created_timestamp": datetime(2026, 1, 1, tzinfo=UTC)}, "lies before event_timestamp", id="known before it happened"),
    pytest.param({"event_timestamp": datetime(2100, 1, 1, tzinfo=UTC)}, "lies after its receipt", id="from the future"),
])  # fmt: skip
def test_of_a_batch_with_a_bad_row_nothing_is_pushed_and_nothing_recorded(
    copied_day, user, now, change, reason
):
    good = plays((user, 1, now), (user, 2, now), (user, 3, now))
    records = good.to_pylist()
    records[1] |= change
    before = copied_day.workspace.lake.digest("plays")
    with pytest.raises(RowsRefused) as refused:
        push(copied_day, pa.Table.from_pylist(records, schema=good.schema), record=True)
    ((line, said),) = refused.value.refusals
    assert line == 2
    assert reason in said
    assert copied_day.workspace.lake.digest("plays") == before
    assert not (
        OnlineReader.open(copied_day.workspace.online).recent(user).columns["play_id"] >= FIRST_ID
    ).any()


def test_a_play_that_contradicts_the_lake_is_refused(copied_day, user, now):
    rows = plays((user, 1, now))
    push(copied_day, rows, record=True)
    other = rows.set_column(2, "title_id", pa.array([2], pa.int64()))
    with pytest.raises(RowsRefused, match="is in the lake with other values"):
        push(copied_day, other)


def test_the_command_takes_lines_and_parquet_and_says_what_became_of_them(
    command, copied_day, user, now, tmp_path
):
    title = int(OnlineReader.open(copied_day.workspace.online).catalogue.title_ids[0])
    lines, parquet = tmp_path / "plays.jsonl", tmp_path / "plays.parquet"
    records = [{k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
               for row in plays((user, title, now - MINUTE)).to_pylist()]  # fmt: skip
    lines.write_text("".join(json.dumps(row) + "\n" for row in records))
    pq.write_table(plays((user, title, now - 2 * MINUTE)), parquet)

    said = command(f"matinee features push {lines}").stdout
    assert "1 plays of 1 users pushed; not recorded" in said
    assert (
        "raw events: 1 new, 0 there before" in command(f"matinee features push --record - < {lines}").stdout
    )
    told = json.loads(command(f"matinee features push --json {parquet}").stdout)
    assert told == {"plays": 1, "users": 1, "recorded": None}
    assert session(OnlineReader.open(copied_day.workspace.online), user, now)["play_count_session"] == 2

    refused = command(f"(cat {lines}; echo '{{\"user_id\": 1}}') | matinee features push -", fails=True)
    assert "line 2: play_id: Field required" in refused.stderr


def test_plain_feast_pushes_raw_plays_to_the_page(command, copied_day, user, now):
    from feature_repo.repository import feature_store

    command("matinee features apply")
    store = feature_store(copied_day.workspace.root)
    title = int(OnlineReader.open(copied_day.workspace.online).catalogue.title_ids[0])
    store.push("plays", plays((user, title, now - 3 * MINUTE)).to_pandas())
    reader = OnlineReader.open(copied_day.workspace.online)
    assert session(reader, user, now)["minutes_since_last_play"] == 3
    assert reader.history(user)[-1] == title
    found = store.get_online_features(["recent_plays:title_id"], [{"user_id": user}]).to_dict()
    assert found["title_id"] == [title]  # of kept rows Feast reads the newest


def test_a_served_page_soon_leaves_out_what_was_pushed(copied_day, user, now, tmp_path):
    tag, workspace = newest_tag(copied_day, "homepage"), copied_day.workspace
    serving = Serving(tag, workspace.root, workspace.bentos, port=free_port(), starts_at=now)
    with served(serving, log=tmp_path / "serving.log") as url, PageClient(url) as client:
        watched = client.page(user, SIZE).titles[0].title_id
        push(copied_day, plays((user, watched, now - MINUTE)))
        give_up = time.monotonic() + 20  # how long it takes is measured by benchmarks/push.py
        while watched in {title.title_id for title in client.page(user, SIZE).titles}:
            assert time.monotonic() < give_up
            time.sleep(0.02)
