"""The exposure log: nothing acknowledged is lost, nothing is there twice, a torn tail is left out."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.answers import Page, ShownArm, ShownTitle, TitleScores, Versions
from serving.exposure_table import EXPOSURES, compact, read
from serving.exposures import CorruptSegment, ExposureLog, ExposureRecord, LogClosed, encode, records

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def record(request_id: str, n_titles: int = 2, when: datetime = NOON) -> ExposureRecord:
    titles = tuple(
        ShownTitle(
            position=place,
            title_id=100 + place,
            name=f"Title {place}",
            year=1926,
            genres=("Comedy",),
            artwork_id=7 * place,
            propensity=0.25,
            scores=TitleScores(retrieval=0.5, objective=0.125 * place),
        )
        for place in range(n_titles)
    )
    return ExposureRecord(
        event_timestamp=when,
        page=Page(
            request_id=request_id,
            user_id=3,
            as_of=NOON,
            generation="g1",
            arms=(ShownArm(experiment="diversity", arm="more"), ShownArm(experiment="artwork", arm="bandit")),
            versions=Versions(retriever="retriever/1", ranker="ranker/2"),
            weights={"play": 1.0},
            source="ranked",
            titles=titles,
            timings_ms={"rank": 1.5},
        ),
    )


def shown(folder: Path) -> list[str]:
    return [f"{row['request_id']}:{row['position']}" for row in read(folder).to_pylist()]


def test_every_title_shown_becomes_one_row_with_what_explains_it(tmp_path):
    with ExposureLog(tmp_path, name="a") as log:
        log.append(record("r1"))
    table = read(tmp_path)
    assert table.schema.equals(EXPOSURES)
    second = table.to_pylist()[1]
    expected = {
        "request_id": "r1", "user_id": 3, "title_id": 101, "artwork_id": 7, "position": 1, "surface": "homepage",
        "artwork_propensity": 0.25, "arm": "diversity=more,artwork=bandit", "event_timestamp": NOON,
        "source": "ranked", "retriever": "retriever/1", "ranker": "ranker/2", "artwork": None, "generation": "g1",
        "live_set": "", "canary": None, "weights": '{"play": 1.0}', "retrieval_score": 0.5, "objective_score": 0.125, "play_score": None,
    }  # fmt: skip
    assert {name: second[name] for name in expected} == expected
    assert len(set(table["impression_id"].to_pylist())) == 2


def test_an_acknowledged_exposure_can_be_read_while_the_writer_lives(tmp_path):
    with ExposureLog(tmp_path, name="a") as log:
        log.append(record("r1"))
        assert shown(tmp_path) == ["r1:0", "r1:1"]


def test_pages_that_are_logged_together_are_each_read_back(tmp_path):
    with ExposureLog(tmp_path, name="a") as log:
        log.append(record("one"), record("two"), record("three"))
        log.append()
    assert sorted(shown(tmp_path)) == sorted(
        f"{name}:{at}" for name in ("one", "two", "three") for at in (0, 1)
    )


def test_a_folder_without_exposures_reads_as_an_empty_table(tmp_path):
    assert read(tmp_path / "nowhere").schema.equals(EXPOSURES)
    assert read(tmp_path / "nowhere").num_rows == 0


@pytest.mark.parametrize("kept", [0, 1, 8, 9, 10, 400, -2, -1])
def test_a_torn_last_line_is_left_out_and_what_stands_before_it_is_kept(tmp_path, kept):
    whole, torn = encode(record("r1")), encode(record("r2"))
    (tmp_path / "a-00000.exposures").write_bytes(whole + torn[:kept])
    assert shown(tmp_path) == ["r1:0", "r1:1"]


def test_a_last_line_whose_bytes_never_reached_the_disk_is_left_out(tmp_path):
    whole, torn = encode(record("r1")), bytearray(encode(record("r2")))
    torn[50:90] = bytes(40)  # a file may grow before its blocks are written: zeros, then the newline
    (tmp_path / "a-00000.exposures").write_bytes(whole + bytes(torn))
    assert shown(tmp_path) == ["r1:0", "r1:1"]


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path):
    first = bytearray(encode(record("r1")))
    first[60] ^= 1
    segment = tmp_path / "a-00000.exposures"
    segment.write_bytes(bytes(first) + encode(record("r2")))
    with pytest.raises(CorruptSegment, match=r"a-00000\.exposures: line 1 "):
        list(records(segment))


def test_many_threads_log_each_page_once(tmp_path):
    with ExposureLog(tmp_path, name="a", max_segment_bytes=20_000) as log:

        def show(worker: int) -> None:
            for number in range(25):
                log.append(record(f"{worker}-{number}", n_titles=1))

        threads = [threading.Thread(target=show, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(shown(tmp_path)) == sorted(f"{w}-{n}:0" for w in range(4) for n in range(25))
    assert len(list(tmp_path.glob("*.exposures"))) > 1


def test_compaction_keeps_every_exposure_once_and_leaves_a_living_segment_alone(tmp_path):
    with ExposureLog(tmp_path, name="old") as log:
        log.append(record("r1"))
    with ExposureLog(tmp_path, name="new") as log:
        log.append(record("r2"))
        before = read(tmp_path)
        part = compact(tmp_path)
        assert [path.name for path in tmp_path.glob("*.exposures")] == ["new-00000.exposures"]
        assert read(tmp_path).equals(before)
        assert compact(tmp_path) is None
        log.append(record("r3"))
    assert part is not None
    assert compact(tmp_path) not in (None, part)
    assert shown(tmp_path) == ["r1:0", "r1:1", "r2:0", "r2:1", "r3:0", "r3:1"]
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/*.parquet'").fetchall() == [(6,)]


def test_a_part_compacted_before_a_column_was_added_is_still_read(tmp_path):
    with ExposureLog(tmp_path, name="a") as log:
        log.append(record("r1"))
    part = compact(tmp_path)
    whole = pq.read_table(part)
    pq.write_table(whole.drop_columns(["choice_score", "artwork_arm_set"]), part)
    with ExposureLog(tmp_path, name="b") as log:
        log.append(record("r2"))
    assert read(tmp_path).schema.equals(EXPOSURES)
    assert shown(tmp_path) == ["r1:0", "r1:1", "r2:0", "r2:1"]


def test_a_crash_between_writing_a_part_and_deleting_its_segments_repeats_nothing(tmp_path):
    with ExposureLog(tmp_path, name="a") as log:
        log.append(record("r1"))
    segment = tmp_path / "a-00000.exposures"
    content = segment.read_bytes()
    compact(tmp_path)
    segment.write_bytes(content)  # as if the deletion had not happened
    assert shown(tmp_path) == ["r1:0", "r1:1"]
    assert compact(tmp_path) is None
    assert not segment.exists()
    assert shown(tmp_path) == ["r1:0", "r1:1"]


def test_a_closed_log_refuses_and_a_disk_that_refuses_is_told_to_the_caller(tmp_path):
    log = ExposureLog(tmp_path / "log", name="a")
    (tmp_path / "log").rmdir()
    with pytest.raises(FileNotFoundError):
        log.append(record("r1"))
    (tmp_path / "log").mkdir()
    log.append(record("r2"))  # and the log goes on once the disk does
    log.close()
    with pytest.raises(LogClosed):
        log.append(record("r3"))
    assert shown(tmp_path / "log") == ["r2:0", "r2:1"]


def test_after_half_a_line_on_a_full_disk_the_log_goes_on_in_a_new_segment(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ExposureLog(tmp_path, name="a") as log:
        log.append(record("r1"))
        size = (tmp_path / "a-00000.exposures").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # room for part of a line
        try:
            with pytest.raises(OSError, match="too large"):
                log.append(record("r2"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "a-00000.exposures").stat().st_size == size + 100
        log.append(record("r3"))
    assert shown(tmp_path) == ["r1:0", "r1:1", "r3:0", "r3:1"]


LIVES = 100
KILLED_WRITERS = """
import os, random, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_serving_exposures import record
from serving.exposures import ExposureLog
from serving.exposure_table import compact

def shows(life, acknowledged):
    log = ExposureLog(Path(sys.argv[1]), name=f"life-{life:03d}", max_segment_bytes=20_000)
    def show(worker):
        for number in range(100_000):
            log.append(record(f"{life}-{worker}-{number}", n_titles=3))
            os.write(acknowledged, f"{life}-{worker}-{number}\\n".encode())
    for worker in range(3):
        threading.Thread(target=show, args=(worker,)).start()

draw = random.Random(0)
for life in range(int(sys.argv[3])):
    end, acknowledged = os.pipe()
    writer = os.fork()
    if not writer:
        shows(life, acknowledged)
        signal.pause()
    os.close(acknowledged)
    first = b"" if life % 4 == 0 else os.read(end, 1)  # one in four is killed wherever it stands
    time.sleep(draw.uniform(0.0, 0.05))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    with os.fdopen(end, "rb") as told:
        whole = (first + told.read()).splitlines(keepends=True)
        sys.stdout.write("".join(line.decode() for line in whole if line.endswith(b"\\n")))
    if life % 10 == 9:
        compact(Path(sys.argv[1]))
"""


@pytest.mark.endurance
def test_a_hundred_kills_under_load_lose_no_acknowledged_exposure_and_repeat_none(tmp_path):
    command = [sys.executable, "-c", KILLED_WRITERS, str(tmp_path), str(Path(__file__).parent), str(LIVES)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    acknowledged = told.stdout.split()
    found = shown(tmp_path)
    assert len(found) == len(set(found))
    assert not {f"{request}:{place}" for request in acknowledged for place in range(3)} - set(found)
    lives = {int(request.split("-")[0]) for request in acknowledged}
    assert len(lives) >= 0.75 * LIVES
    assert list(tmp_path.glob("part-*.parquet"))


def test_the_table_is_what_an_impressions_event_needs():
    from events.schema import IMPRESSIONS

    given = {"device", "created_timestamp"}  # the session knows the device; the importer knows when it heard
    assert {column.name for column in IMPRESSIONS.columns} - set(EXPOSURES.names) == given
    assert isinstance(EXPOSURES, pa.Schema)
