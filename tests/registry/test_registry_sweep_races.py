"""A sweep never takes bytes that a registration, or an upload, is just about to refer to: in no order, in no crowd."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta

import pytest

from registry import ArtifactRefused, ArtifactStore, NotRecorded
from registry.database import Database
from registry.http import Role, open_backend
from registry.http.artifacts import receive
from registry.ledger import Registry, utc_now

AT_ONCE = {"sweep": True, "older_than": timedelta(0), "uploads_older_than": timedelta(0)}
CONTENT = b'{"layers": 0}'


class AfterPut(ArtifactStore):
    """A store in which something happens right after a file was stored, once."""

    then = None

    def put(self, content, name):
        artifact = super().put(content, name)
        if self.then is not None:
            then, self.then = self.then, None
            then()
        return artifact


class BeforeDeciding(ArtifactStore):
    """A store in which something happens between a sweep's look at the ledger and its decision, once."""

    then = None

    def modified(self, entry):
        if self.then is not None:
            then, self.then = self.then, None
            then()
        return super().modified(entry)


class SaysWhenItDeletes(ArtifactStore):
    def __init__(self, url):
        super().__init__(url)
        self.deleted = threading.Event()

    def delete(self, entry):
        super().delete(entry)
        self.deleted.set()


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "artifacts")


@pytest.fixture
def over(url):
    """Makes ledgers on one database, each over a store and by a clock of its own."""
    made = []

    def make(store, clock=utc_now):
        made.append(Registry(Database(url), store, clock, frozenset()))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture
def orphan(over, folder):
    """Bytes in the store that no row speaks of, as a killed registration leaves them."""
    return ArtifactStore(folder).put(CONTENT, "config.json")


def register(ledger, draft):
    return ledger.register(draft(files={"config.json": CONTENT}))


def intact(ledger):
    assert ledger.read("ranker/1", "config.json") == CONTENT
    assert ledger.fsck(older_than=timedelta(0)).findings == ()


def test_a_sweep_after_the_files_were_stored_and_before_their_rows(over, folder, orphan, draft):
    store, reports = AfterPut(folder), []
    store.then = lambda: reports.append(over(ArtifactStore(folder)).fsck(**AT_ONCE))
    ledger = over(store)
    assert register(ledger, draft).ref == "ranker/1"
    assert reports[0].swept.files == 1, "the sweep came between and took the file"
    intact(ledger)


def test_a_registration_after_the_sweep_has_looked_and_before_it_decides(over, folder, orphan, draft):
    store = BeforeDeciding(folder)
    store.then = lambda: register(over(ArtifactStore(folder)), draft)
    ledger = over(store)
    report = ledger.fsck(**AT_ONCE)
    assert [found.kind.name for found in report.findings] == ["orphan-file"]
    assert report.swept.files == 0, "by then it was somebody's"
    intact(ledger)


def test_a_sweep_waits_for_a_registration_that_has_made_sure_of_its_files(over, folder, orphan, draft):
    store, sweeps = SaysWhenItDeletes(folder), []

    def clock():  # asked within the transaction, when the files are known to be there
        sweeps.append(threading.Thread(target=over(store).fsck, kwargs=AT_ONCE))
        sweeps[0].start()
        assert not store.deleted.wait(3)
        return utc_now()

    ledger = over(ArtifactStore(folder), clock)
    register(ledger, draft)
    sweeps[0].join()
    intact(over(store))


def test_a_registration_waits_for_a_sweep_that_has_decided(over, folder, orphan, draft):
    registered = threading.Event()

    class Registering(ArtifactStore):
        def delete(self, entry):
            def work():
                register(over(ArtifactStore(folder)), draft)
                registered.set()

            threading.Thread(target=work).start()
            assert not registered.wait(1)
            super().delete(entry)

    assert over(Registering(folder)).fsck(**AT_ONCE).swept.files == 1
    assert registered.wait(30)
    intact(over(ArtifactStore(folder)))


def test_on_postgresql_registrations_of_two_models_do_not_wait_for_each_other(url, over, folder, draft):
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    refs = []

    def clock():  # asked within the transaction of the first
        pool = ThreadPoolExecutor(1)
        second = pool.submit(over(ArtifactStore(folder)).register, draft("second"))
        done, _ = wait([second], timeout=30)
        pool.shutdown(wait=False)
        if not done:
            raise TimeoutError(
                "the second registration waits for the first"
            )  # which ends here, and lets it go
        refs.append(second.result().ref)
        return utc_now()

    refs.append(over(ArtifactStore(folder), clock).register(draft("first")).ref)
    assert refs == ["second/1", "first/1"]


def test_an_upload_is_kept_from_a_sweep_in_the_same_way(url, over, folder, orphan):
    store, reports = AfterPut(folder), []
    store.then = lambda: reports.append(over(ArtifactStore(folder)).fsck(**AT_ONCE))
    with open_backend(url, folder) as opened:
        token = opened.tokens.create("ada", Role.ENGINEER, bytes).split("_")[1]
        backend = dataclasses.replace(opened, store=store)
        assert receive(backend, "run", "config.json", CONTENT, token)["sha256"] == orphan.sha256
    assert reports[0].swept.files == 1
    assert store.read(orphan.sha256) == CONTENT


def test_a_file_that_changed_while_its_first_reading_was_swept_makes_no_version(
    over, folder, tmp_path, draft
):
    source, store = tmp_path / "config.json", AfterPut(folder)
    source.write_bytes(CONTENT)

    def sweep_and_change():
        over(ArtifactStore(folder)).fsck(**AT_ONCE)
        source.write_bytes(b'{"layers": 9}')

    store.then = sweep_and_change
    ledger = over(store)
    with pytest.raises(ArtifactRefused, match="config.json changed"):
        ledger.register(draft(files={"config.json": source}))
    assert ledger.models() == ()


def test_what_looks_lost_while_it_is_deleted_and_swept_is_no_finding(over, folder, draft):
    """Between the check's look at the ledger and at the file, the version goes and another sweep takes its bytes."""
    ledger = over(ArtifactStore(folder))
    register(ledger, draft)

    class Vanishing(ArtifactStore):
        def measure(self, sha256):
            if ledger.models()[0].versions:
                ledger.delete("ranker/1")
                assert ledger.fsck(**AT_ONCE).swept.files == 1
            return super().measure(sha256)

    assert over(Vanishing(folder)).fsck(older_than=timedelta(0)).errors == ()


@pytest.mark.slow
def test_registrations_deletions_and_sweeps_all_at_once_lose_nothing(over, folder, draft):
    done = threading.Event()

    def write(writer):
        ledger, kept = over(ArtifactStore(folder)), []
        for step in range(25):  # all writers store the same five contents, again and again
            version = ledger.register(
                draft(f"m{writer}", files={"config.json": b"[%d]" % (step % 5)}, seed=step)
            )
            if step % 3:
                ledger.delete(version.ref)
            else:
                kept.append((version.ref, b"[%d]" % (step % 5)))
        return kept

    def sweep():
        ledger, swept = over(ArtifactStore(folder)), 0
        while not done.is_set():
            report = ledger.fsck(**AT_ONCE)
            assert report.errors == ()
            swept += report.swept.files
        return swept

    with ThreadPoolExecutor(6) as pool:
        sweepers = [pool.submit(sweep) for _ in range(2)]
        writers = [pool.submit(write, writer) for writer in range(4)]
        try:
            kept = [entry for writer in writers for entry in writer.result()]
        finally:
            done.set()
        assert sum(sweeper.result() for sweeper in sweepers) > 0
    ledger = over(ArtifactStore(folder))
    assert len(kept) == 4 * 9
    for ref, content in kept:
        assert ledger.read(ref, "config.json") == content
    assert ledger.fsck(**AT_ONCE).errors == ()
    assert ledger.fsck().findings == ()


def test_deleting_what_is_gone_already_is_as_good(folder, orphan):
    store = ArtifactStore(folder)
    (entry,) = store.entries()
    store.delete(entry)
    store.delete(entry)
    with pytest.raises(NotRecorded):
        store.read(orphan.sha256)
