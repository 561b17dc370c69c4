from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_store as small

from feature_repo.arithmetic import Ref
from feature_repo.declarations import (
    TITLE,
    USER,
    Declarations,
    Feature,
    FeatureService,
    FeatureTable,
    InSession,
    Kept,
    Weight,
)
from feature_repo.materialize import materialize, push
from feature_repo.reader import OnlineReader, WrongEntity
from feature_repo.session import MinutesSincePlay, OfLastTitle, PlaysInSession
from validations.expectations import DType

PROJECT, KEEP = "test", 4
MONDAY, MINUTE, DAY = small.MONDAY, timedelta(minutes=1), timedelta(days=1)
FLAGS = {100: 1.0, 101: 0.0, 102: None}
Play = tuple[int, int, int, datetime, datetime]


def declared() -> Declarations:
    """Titles with one flag, four plays kept of each user, and the three kinds of session features."""
    titles = FeatureTable("title_profile", TITLE, Weight.LIGHT, "titles", (small.feature("in_drama"),))
    plays = FeatureTable(
        "recent_plays", USER, Weight.LIGHT, "plays",
        tuple(Feature(c, Kept("history", c, KEEP), c, "id", (), frozenset(), dtype=DType.BIGINT) for c in ("play_id", "title_id")),
        ttl_days=36_500, keep=KEEP, identified_by=("play_id",),
    )  # fmt: skip
    readings = {
        "minutes": MinutesSincePlay(1440), "count": PlaysInSession(30), "drama": OfLastTitle(Ref("title_profile", "in_drama"), 1440),
    }  # fmt: skip
    sessions = FeatureTable(
        "user_session", USER, Weight.HEAVY, "sessions",
        tuple(Feature(n, InSession(r, KEEP), n, "u", (), frozenset()) for n, r in readings.items()), stored=False,
    )  # fmt: skip
    ranking = FeatureService("ranking", (sessions, titles), "both")
    alone = FeatureService("alone", (sessions,), "sessions")
    return Declarations("world", (titles, plays, sessions), (ranking, alone), ())


def rows(*plays: Play) -> pa.Table:
    users, ids, titles, happened, known = zip(*plays, strict=True)
    moment = pa.timestamp("us", "UTC")
    return pa.table({
        "user_id": pa.array(users, pa.int64()), "event_timestamp": pa.array(happened, moment),
        "created_timestamp": pa.array(known, moment), "play_id": pa.array(ids, pa.int64()), "title_id": pa.array(titles, pa.int64()),
    })  # fmt: skip


def play(user: int, play_id: int, title: int, at: datetime, late: timedelta = timedelta(0)) -> Play:
    return (user, play_id, title, at, at + late)


COMPUTED = (
    *(play(10, i, 100 + i % 3, MONDAY - (9 - i) * MINUTE) for i in range(5, 9)),
    play(20, 20, 101, MONDAY - 3 * DAY),
)


@pytest.fixture
def root(tmp_path) -> Path:
    """A published snapshot: user 10 played for the last minutes of Sunday, user 20 days ago, user 30 never."""
    moments = pa.array([MONDAY] * 3, pa.timestamp("us", "UTC"))
    titles = pa.table({
        "title_id": pa.array(list(FLAGS), pa.int64()), "event_timestamp": moments, "created_timestamp": moments,
        "in_drama": pa.array(FLAGS.values(), pa.float32()),
    })  # fmt: skip
    files = {}
    for name, table in (("title_profile", titles), ("recent_plays", rows(*COMPUTED))):
        files[name] = tmp_path / f"{name}.parquet"
        pq.write_table(table, files[name])
    materialize(declared(), files, tmp_path / "online", PROJECT, small.catalogue())
    return tmp_path / "online"


def pushed(root: Path, *plays: Play) -> None:
    push(declared().table("recent_plays"), rows(*plays), root, PROJECT)


def session(reader: OnlineReader, user: int, at: datetime | None) -> list[float]:
    matrix = reader.matrix("ranking", user, np.array([101, 100]), at=at)
    np.testing.assert_array_equal(matrix[0, :3], matrix[1, :3])
    assert matrix[:, 3].tolist() == [0, 1]
    return matrix[0, :3].tolist()


def test_a_request_has_the_session_of_its_own_moment(root):
    reader = OnlineReader.open(root)
    # plays 5 to 8 lie 4, 3, 2 and 1 minutes before Monday; play 8 is of title 102, whose flag is null
    np.testing.assert_array_equal(session(reader, 10, MONDAY), [1, 4, np.nan])
    np.testing.assert_array_equal(session(reader, 10, MONDAY - MINUTE), [1, 3, 0])
    np.testing.assert_array_equal(session(reader, 10, MONDAY + 40 * MINUTE), [41, 0, np.nan])
    np.testing.assert_array_equal(session(reader, 10, MONDAY + 2 * DAY), [np.nan, 0, np.nan])


def test_without_a_moment_a_session_is_of_the_snapshots_own(root):
    reader = OnlineReader.open(root)
    np.testing.assert_array_equal(session(reader, 10, None), session(reader, 10, MONDAY))


@pytest.mark.parametrize("user", [20, 30])
def test_who_has_not_played_lately_has_no_session(root, user):
    np.testing.assert_array_equal(session(OnlineReader.open(root), user, MONDAY), [np.nan, 0, np.nan])


def test_a_pushed_play_is_in_the_next_requests_session_and_history(root):
    reader = OnlineReader.open(root)
    now = MONDAY + 20 * MINUTE
    pushed(root, play(10, 30, 100, now - 2 * MINUTE), play(30, 31, 101, now - 5 * MINUTE))
    assert session(reader, 10, now)[0] == 21
    assert reader.refresh()
    assert session(reader, 10, now) == [2, 4, 1]  # of the four kept, the oldest has made place
    assert session(reader, 30, now) == [5, 1, 0]
    assert reader.history(10).tolist() == [100, 101, 102, 100]
    assert reader.history(30).tolist() == [101]


def test_a_push_reaches_a_reader_in_another_process(root):
    code = (
        "import sys, numpy as np; from datetime import datetime; from pathlib import Path\n"
        "from feature_repo.reader import OnlineReader\n"
        "reader = OnlineReader.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.readline(); reader.refresh()\n"
        "at = datetime.fromisoformat(sys.argv[2])\n"
        "print(reader.matrix('ranking', 10, np.array([100]), at=at)[0, :3].tolist())\n"
        "assert not {'duckdb', 'ibis', 'feast'} & set(sys.modules)\n"
    )
    now = MONDAY + 20 * MINUTE
    with subprocess.Popen([sys.executable, "-c", code, str(root), now.isoformat()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "open\n"
        pushed(root, play(10, 30, 100, now - 2 * MINUTE))
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "[2.0, 4.0, 1.0]\n"
    assert other.returncode == 0


def test_a_push_that_we_hear_of_later_counts_from_then_on(root):
    pushed(root, play(10, 30, 100, MONDAY + MINUTE, late=10 * MINUTE))
    reader = OnlineReader.open(root)
    assert session(reader, 10, MONDAY + 11 * MINUTE)[0] == 12
    assert session(reader, 10, MONDAY + 12 * MINUTE)[0] == 11


def test_the_same_push_twice_changes_nothing(root):
    now = MONDAY + 20 * MINUTE
    first = play(30, 31, 101, now - 5 * MINUTE)
    pushed(root, first, first)
    pushed(root, first)
    reader = OnlineReader.open(root)
    assert reader.history(30).tolist() == [101]
    assert session(reader, 30, now) == [5, 1, 0]


def test_an_old_play_pushed_late_takes_its_place_by_when_it_happened(root):
    pushed(root, play(20, 21, 100, MONDAY - 4 * DAY, late=4 * DAY))
    assert OnlineReader.open(root).history(20).tolist() == [100, 101]


def test_history_orders_plays_of_one_moment_by_their_ids(root):
    when = MONDAY + MINUTE
    pushed(root, play(30, 8, 101, when), play(30, 7, 100, when, late=DAY), play(30, 9, 102, when))
    assert OnlineReader.open(root).history(30).tolist() == [100, 101, 102]


def test_a_new_snapshot_has_the_plays_that_were_pushed_before(root, tmp_path):
    now = MONDAY + 20 * MINUTE
    pushed(root, play(30, 31, 101, now - 5 * MINUTE))
    files = {name: tmp_path / f"{name}.parquet" for name in ("title_profile", "recent_plays")}
    generation = materialize(declared(), files, root, PROJECT, small.catalogue())
    assert generation.as_of == MONDAY  # which a streamed play does not move
    assert session(OnlineReader.open(root), 30, now) == [5, 1, 0]


def test_sessions_have_no_vector_as_they_need_a_moment(root):
    with pytest.raises(WrongEntity, match=r"user and moment: use matrix\(\)"):
        OnlineReader.open(root).vector("alone", 10)


def test_a_moment_in_another_zone_is_the_same_moment(root):
    reader = OnlineReader.open(root)
    other = MONDAY.astimezone(datetime.strptime("+0530", "%z").tzinfo)
    assert other.tzinfo is not UTC
    np.testing.assert_array_equal(session(reader, 10, other), session(reader, 10, MONDAY))
