"""A check of the ledger finds what was harmed, names what it breaks, and sweeps only what is nobody's."""

import hashlib
import os
import sqlite3
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from registry import (
    ArmRecord,
    ArtifactRefused,
    ArtifactStore,
    BentoRecord,
    ExperimentRecord,
    InvalidRecord,
    open_registry,
    safeguards,
)
from registry.access import UploadRow
from registry.database import Database
from registry.findings import ranges
from registry.http import Role
from registry.http.tokens import Tokens
from registry.migrations.triggers import create

HOUR = timedelta(hours=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
"""By this clock whatever a test stored is old."""


BOTH_STORES = pytest.mark.parametrize("place", ["folder", "memory"], indirect=True)


@pytest.fixture
def place(request, tmp_path):
    memory = getattr(request, "param", "folder") == "memory"
    return f"memory://fsck-{uuid.uuid4().hex}" if memory else str(tmp_path / "artifacts")


@pytest.fixture
def moments():
    """What time it is: the last of these."""
    return [LATER]


@pytest.fixture
def ledger(url, place, moments):
    with open_registry(url, place, clock=lambda: moments[-1], protected=()) as registry:
        yield registry


@pytest.fixture
def store(place):
    return ArtifactStore(place)


@pytest.fixture
def past(url):
    """Runs SQL past every trigger and foreign key, as whoever owns the database can."""
    database = Database(url)

    def run(sql: str) -> None:
        if database.dialect == "postgresql":
            with database.connection() as connection:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
                connection.exec_driver_sql(sql)
            return
        with sqlite3.connect(sa.make_url(url).database) as plain:
            triggers = plain.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                plain.execute(f"DROP TRIGGER {name}")
            plain.execute(sql)
            for _, created in triggers:
                plain.execute(created)
        plain.close()

    yield run
    database.close()


def kinds(report):
    return [finding.kind.name for finding in report.findings]


def stored(store, sha256):
    return next(entry for entry in store.entries() if entry.path.endswith(sha256))


def overwrite(store, sha256, data):
    with store._files.open(store._place(sha256), "wb") as file:
        file.write(data)


@BOTH_STORES
def test_a_ledger_nobody_harmed_has_no_findings(ledger, draft, lineage):
    service, made_from = lineage(ledger)
    ledger.register(draft(service=service, training_set=made_from, params={"epochs": 3}))
    ledger.register(draft(weights=10))
    ledger.promote("ranker/1", by="ada", reason="first")
    ledger.promote("ranker/2", by="ada", reason="better")
    ledger.rollback("ranker", by="ada", reason="worse")
    ledger.remove_alias("ranker", "champion", by="ada", reason="none")
    ledger.record_bento(BentoRecord("homepage:a", "b", ("ranker/1",)))
    report = ledger.fsck()
    assert report.findings == ()
    sizes = [len(b'{"layers": 0}'), len(b'{"layers": 10}'), len(b"# Offline evaluation")]
    assert (report.artifacts, report.files, report.read_bytes) == (3, 3, sum(sizes))
    assert report.swept is None


@BOTH_STORES
def test_an_empty_ledger_over_a_store_that_is_not_there_yet_is_whole(ledger):
    report = ledger.fsck(sweep=True)
    assert (report.findings, report.artifacts, report.files) == ((), 0, 0)


@BOTH_STORES
@pytest.mark.parametrize("content", [True, False])
def test_a_lost_file_names_the_versions_bentos_arms_and_aliases_it_breaks(ledger, store, draft, content):
    shared = ledger.register(draft())  # its report.md is the other one's too
    other = ledger.register(draft("retriever", weights=1))
    ledger.promote("ranker/1", by="ada", reason="first")
    ledger.record_bento(BentoRecord("homepage:a", "b", ("ranker/1",)))
    ledger.record_experiment(
        ExperimentRecord("rows", "page", (ArmRecord("control", {"m": "ranker/1"}),)), by="ada"
    )
    ledger.start_experiment("rows", by="ada")
    (sha256,) = {file.sha256 for file in shared.files} & {file.sha256 for file in other.files}
    store.delete(stored(store, sha256))
    (finding,) = ledger.fsck(content=content).errors
    assert (finding.kind.name, finding.where) == ("artifact-missing", f"artifact {sha256}")
    assert finding.breaks == (
        "ranker/1", "ranker/1 as alias 'champion'", "ranker/1 as Bento 'homepage:a'", "ranker/1 as arm 'rows/control' (running)",
        "retriever/1",
    )  # fmt: skip


@pytest.mark.parametrize("harm", [b"rot", b'{"layers": 1}'], ids=["of another size", "of the same size"])
def test_a_changed_file_is_found_by_reading_it_and_handing_it_in_again_mends_it(ledger, store, draft, harm):
    version = ledger.register(draft())
    config = next(file for file in version.files if file.path.endswith("config.json"))
    overwrite(store, config.sha256, harm)
    (finding,) = ledger.fsck().errors
    assert (finding.kind.name, finding.breaks) == ("artifact-corrupt", ("ranker/1",))
    assert hashlib.sha256(harm).hexdigest() in finding.what
    seen_without_reading = kinds(ledger.fsck(content=False)) == ["artifact-corrupt"]
    assert seen_without_reading == (len(harm) != config.size)
    ledger.register(draft())
    assert ledger.fsck().findings == ()


def test_a_recorded_size_that_is_not_the_files_is_found(ledger, draft, past):
    ledger.register(draft())
    past("UPDATE artifact SET size = size + 1 WHERE media_type = 'application/json'")
    assert kinds(ledger.fsck()) == ["artifact-size"]
    assert kinds(ledger.fsck(content=False)) == ["artifact-size"]


@BOTH_STORES
def test_what_was_deleted_is_an_orphan_until_it_is_swept(ledger, moments, draft):
    ledger.register(draft())
    ledger.register(draft(weights=1))
    ledger.delete("ranker/2")
    moments.append(LATER + HOUR)
    report = ledger.fsck(sweep=True)
    assert kinds(report) == ["orphan-file", "orphan-row"]
    assert report.gone == {"ranker": (2,)}
    assert (report.swept.files, report.swept.bytes, report.swept.artifacts) == (1, len(b'{"layers": 1}'), 1)
    assert ledger.fsck().findings == ()
    assert ledger.read("ranker/1", "model/config.json") == b'{"layers": 0}'
    assert ledger.register(draft(weights=1)).number == 3


def test_without_sweep_nothing_is_deleted(ledger, store):
    store.put(b"{}", "a.json")
    assert kinds(ledger.fsck()) == kinds(ledger.fsck()) == ["orphan-file"]


@pytest.mark.parametrize(("minutes", "swept"), [(59, 0), (60, 1), (61, 1)])
def test_an_orphan_younger_than_an_hour_is_left_alone(url, tmp_path, minutes, swept):
    store = ArtifactStore(str(tmp_path / "artifacts"))
    sha256 = store.put(b"{}", "a.json").sha256
    os.utime(store._place(sha256), (0, (LATER - timedelta(minutes=minutes)).timestamp()))
    with open_registry(url, str(tmp_path / "artifacts"), clock=lambda: LATER) as ledger:
        report = ledger.fsck(sweep=True)
    assert (report.swept.files, report.young) == (swept, 1 - swept)
    assert len(list(store.entries())) == 1 - swept


@pytest.mark.parametrize(("minutes", "swept"), [(59, 0), (60, 1)])
def test_the_row_of_an_artifact_has_the_same_grace(url, tmp_path, draft, minutes, swept):
    moments = [LATER - timedelta(minutes=minutes)]
    with open_registry(url, str(tmp_path / "artifacts"), clock=lambda: moments[-1]) as ledger:
        ledger.register(draft())
        ledger.delete("ranker/1")
        moments.append(LATER)
        report = ledger.fsck(sweep=True)
    assert kinds(report).count("orphan-row") == 2 * swept


def test_a_write_that_goes_on_is_left_alone_even_when_no_grace_is_given(url, tmp_path):
    folder = tmp_path / "artifacts" / "sha256" / "ab"
    folder.mkdir(parents=True)
    for name, minutes in (("0" * 32, 59), ("1" * 32, 60)):
        (folder / f".{name}.partial").write_bytes(b"half")
        os.utime(folder / f".{name}.partial", (0, (LATER - timedelta(minutes=minutes)).timestamp()))
    with open_registry(url, str(tmp_path / "artifacts"), clock=lambda: LATER) as ledger:
        report = ledger.fsck(sweep=True, older_than=timedelta(0))
    assert kinds(report) == ["unfinished"]
    assert (report.swept.files, report.swept.bytes, report.young) == (1, 4, 1)
    assert [path.name for path in folder.iterdir()] == [f".{'0' * 32}.partial"]


@pytest.fixture
def upload(url, store):
    """Sends bytes ahead of a version, at a moment."""
    database = Database(url)
    token = Tokens(database, lambda: LATER).create("ada", Role.ENGINEER, bytes).split("_")[1]

    def send(data, at, path="w.json"):
        put = store.put(data, path)
        with database.referring() as session:
            session.merge(
                UploadRow(token=token, folder="run", path=path, sha256=put.sha256, size=put.size, at=at)
            )
        return put.sha256

    yield send
    database.close()


@BOTH_STORES
@pytest.mark.parametrize(("age", "stale"), [(23 * HOUR, False), (24 * HOUR, True)])
def test_a_file_sent_ahead_is_somebodys_for_a_day(ledger, store, upload, age, stale):
    sha256 = upload(b"{}", LATER - age)
    report = ledger.fsck(sweep=True)
    assert kinds(report) == (["orphan-file", "stale-upload"] if stale else [])
    assert (report.swept.files, report.swept.uploads) == (stale, stale)
    assert store.intact(sha256) != stale
    assert ledger.fsck().findings == ()


def test_a_lost_upload_is_named(ledger, store, upload):
    store.delete(stored(store, upload(b"{}", LATER)))
    (finding,) = ledger.fsck().errors
    assert finding.breaks == ("upload run/w.json",)


def test_a_stale_upload_leaves_a_version_with_the_same_bytes_alone(ledger, upload, draft):
    upload(b'{"layers": 0}', LATER - 30 * HOUR)
    ledger.register(draft())
    report = ledger.fsck(sweep=True)
    assert kinds(report) == ["stale-upload"]
    assert report.swept.files == 0
    assert ledger.fsck().findings == ()


def test_a_row_without_a_version_stays_while_a_file_of_its_bytes_was_just_sent(
    ledger, moments, upload, draft
):
    ledger.register(draft(files={"w.json": b"{}"}))
    ledger.delete("ranker/1")
    moments.append(LATER + HOUR)
    upload(b"{}", LATER)
    report = ledger.fsck(sweep=True)
    assert (report.findings, report.artifacts) == ((), 1)


def test_links_and_strangers_in_the_store_are_found_and_never_followed_or_deleted(url, tmp_path, draft):
    root, elsewhere = tmp_path / "artifacts", tmp_path / "elsewhere"
    with open_registry(url, str(root), clock=lambda: LATER) as ledger:
        version = ledger.register(draft())
        elsewhere.mkdir()
        (elsewhere / ("ab" + "0" * 62)).write_bytes(b"theirs")
        (root / "sha256" / "zz").symlink_to(elsewhere)
        (root / "sha256" / "ab").mkdir(exist_ok=True)
        (root / "sha256" / "ab" / ("cd" + "0" * 62)).write_bytes(b"in the wrong folder")
        (root / "notes.txt").write_bytes(b"to self")
        place = root / "sha256" / version.files[0].sha256[:2] / version.files[0].sha256
        place.rename(tmp_path / "moved")
        place.symlink_to(tmp_path / "moved")
        report = ledger.fsck(sweep=True, older_than=timedelta(0))
    assert sorted(kinds(report)) == ["artifact-corrupt", "link", "link", "misplaced", "misplaced"]
    assert report.swept is None, "with errors nothing is swept"
    assert {finding.where for finding in report.findings if finding.kind.name == "misplaced"} == {
        "notes.txt", f"sha256/ab/cd{'0' * 62}",
    }  # fmt: skip
    assert (elsewhere / ("ab" + "0" * 62)).exists()


def test_nothing_is_written_through_a_linked_folder(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store = ArtifactStore(str(tmp_path / "linked" / "store"))
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)  # the way to the store may be a link
    sha256 = store.put(b"{}", "a.json").sha256
    shard = tmp_path / "store" / "sha256" / sha256[:2]
    shard.rename(elsewhere / "shard")
    shard.symlink_to(elsewhere / "shard")
    with pytest.raises(ArtifactRefused, match="is a symlink"):
        store.put(b"{}", "a.json")


def test_with_errors_nothing_is_swept_because_lost_rows_may_speak_of_the_orphans(ledger, store, draft, past):
    ledger.register(draft())
    past("DELETE FROM version_file WHERE path = 'report.md'")
    report = ledger.fsck(sweep=True)
    assert kinds(report) == ["half", "orphan-file"]
    assert report.swept is None
    assert len(list(store.entries())) == 2


@pytest.mark.parametrize(
    ("sql", "where", "what"),
    [
        ("DELETE FROM version_file WHERE path = 'report.md' AND version_id = 1", "version ranker/1", "has 1 of its 2 files"),
        ("DELETE FROM parameter", "version ranker/1", "has 0 of its 1 parameters"),
        ("DELETE FROM feature_service_member WHERE position = 0", "service ranking", "has 2 of its 3 features"),
        ("DELETE FROM bento_version", "Bento homepage:a", "has 0 of its 1 versions"),
        ("UPDATE registered_model SET next_version = 2", "model ranker", "next_version is 2, and ranker/2 was given out"),
        ("UPDATE alias SET number = 1", "alias ranker@champion", "stands at 1, and its last move put it at 2"),
        ("DELETE FROM alias", "alias ranker@champion", "stands at no version, and its last move put it at 2"),
        ("DELETE FROM alias_history WHERE to_number = 1", "alias ranker@champion",
         "move 1 of its history begins at 1, and the one before ended at no version"),
        ("DELETE FROM alias_history", "alias ranker@champion", "stands at 2, and its last move put it at no version"),
    ],
)  # fmt: skip
def test_what_was_taken_from_the_ledger_behind_its_back_is_found(
    ledger, draft, lineage, past, sql, where, what
):
    service, made_from = lineage(ledger)
    ledger.register(draft(service=service, training_set=made_from, params={"epochs": 3}))
    ledger.register(draft(weights=1))
    ledger.promote("ranker/1", by="ada", reason="first")
    ledger.promote("ranker/2", by="ada", reason="better")
    ledger.record_bento(BentoRecord("homepage:a", "b", ("ranker/1",)))
    past(sql)
    (finding,) = ledger.fsck().errors
    assert finding.where.startswith(where)
    assert finding.what == what


def test_a_counter_behind_a_number_that_only_history_remembers_is_found(ledger, draft, past):
    ledger.register(draft())
    ledger.register(draft(weights=1))
    ledger.promote("ranker/2", by="ada", reason="first")
    ledger.remove_alias("ranker", "champion", by="ada", reason="none")
    ledger.delete("ranker/2")
    past("UPDATE registered_model SET next_version = 2")
    (finding,) = ledger.fsck().errors
    assert finding.what == "next_version is 2, and ranker/2 was given out"


def test_a_reference_to_nothing_is_found(ledger, draft, past):
    ledger.register(draft())
    ledger.promote("ranker/1", by="ada", reason="first")
    past("DELETE FROM model_version")
    assert "dangling" in kinds(ledger.fsck())


def test_every_trigger_of_the_migrations_is_missed(ledger, url):
    database = Database(url)
    with database.connection() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("DROP TRIGGER refuse_update_metric")
        else:
            connection.exec_driver_sql("DROP TRIGGER refuse_update_metric ON metric")
    database.close()
    try:
        (finding,) = ledger.fsck().errors
        assert (finding.kind.name, finding.where) == ("unguarded", "trigger refuse_update_metric on metric")
    finally:
        create_trigger_again(url)


def create_trigger_again(url):
    database = Database(url)
    with database.connection() as connection:
        connection.exec_driver_sql(
            create(safeguards.expected(connection)["refuse_update_metric"], database.dialect)[-1]
        )
    database.close()


def test_a_trigger_that_was_rewritten_is_found(url, tmp_path):
    database = Database(url)
    if database.dialect == "postgresql":
        harm = "CREATE OR REPLACE FUNCTION refuse_update_metric() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
    else:
        harm = "CREATE TRIGGER refuse_update_metric BEFORE UPDATE ON metric BEGIN SELECT 1; END"
    with open_registry(url, str(tmp_path / "a")) as ledger, database.connection() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("DROP TRIGGER refuse_update_metric")
            connection.exec_driver_sql(harm)
            connection.commit()
            (finding,) = ledger.fsck().errors
        else:
            connection.exec_driver_sql(harm)
            (finding,) = safeguards.examine(connection)
            connection.rollback()
    database.close()
    assert (finding.kind.name, finding.what[:18]) == ("unguarded", "is not as migrated")


@pytest.mark.service
@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("ALTER TABLE metric DISABLE TRIGGER ALL", {"unguarded"}),
        ("ALTER TABLE alias DROP CONSTRAINT fk_alias_model_id", {"schema-differs"}),
        ("DROP INDEX uq_experiment_open_name", {"schema-differs"}),
        (
            "ALTER TABLE metric ADD CONSTRAINT ck_metric_k CHECK (k > 0) NOT VALID",
            {"constraint-not-validated"},
        ),
    ],
)
def test_what_postgresql_no_longer_enforces_is_found(new_postgres_schema, tmp_path, sql, found):
    url = new_postgres_schema()
    with open_registry(url, str(tmp_path)) as ledger:
        database = Database(url)
        with database.connection() as connection:
            connection.exec_driver_sql(sql)
        database.close()
        assert set(kinds(ledger.fsck())) == found


def test_damage_to_the_file_of_a_sqlite_database_is_found(tmp_path, draft):
    with open_registry(f"sqlite:///{tmp_path}/r.db", str(tmp_path / "a")) as ledger:
        ledger.register(draft())
    with sqlite3.connect(tmp_path / "r.db") as plain:
        plain.execute("PRAGMA writable_schema = ON")
        plain.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'UNIQUE', '') WHERE name = 'ix_metric_name_version_id_value'"
        )
        plain.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'ix_tag_key_version_id') "
            "WHERE name = 'ix_metric_name_version_id_value'"
        )
    plain.close()
    with open_registry(f"sqlite:///{tmp_path}/r.db", str(tmp_path / "a")) as ledger:
        assert "database-damaged" in kinds(ledger.fsck())


def test_ages_below_zero_are_refused(ledger):
    with pytest.raises(InvalidRecord, match="below zero"):
        ledger.fsck(older_than=timedelta(seconds=-1))


@pytest.mark.parametrize(("numbers", "written"), [([], ""), ([3], "3"), ([1, 2, 4, 6, 7, 8], "1–2, 4, 6–8")])
def test_runs_of_numbers_are_shortened(numbers, written):
    assert ranges(numbers) == written


def test_a_report_for_programs_says_of_each_finding_why_it_matters_and_what_mends_it(ledger, store, draft):
    ledger.register(draft())
    for entry in list(store.entries()):
        store.delete(entry)
    report = ledger.fsck().to_dict()
    assert report["counts"] == {"artifact-missing": 2}
    assert report["errors"] == 2
    for finding in report["findings"]:
        assert all(finding[field] for field in ("kind", "severity", "where", "what", "why", "mend", "breaks"))
