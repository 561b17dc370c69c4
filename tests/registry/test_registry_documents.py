"""Documents stand beside a version: kept as its files are, and no part of what it is."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from registry import (
    ArtifactCorrupt,
    ArtifactRefused,
    ArtifactStore,
    DefinitionConflict,
    Document,
    NotRecorded,
    open_registry,
)
from registry.documents import LARGEST, MOST

PAGE, CURVE = b"<!doctype html><p>recall 0.41</p>", b'<svg xmlns="http://www.w3.org/2000/svg"/>'
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20 + b"IEND\xaeB`\x82"


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "artifacts"))


def names(documents):
    return [document.name for document in documents]


def overwrite(tmp_path, document, data):
    (tmp_path / "artifacts" / "sha256" / document.sha256[:2] / document.sha256).write_bytes(data)


def test_documents_are_listed_by_name_with_their_kind_size_and_digest(ledger, draft):
    ledger.register(draft(documents={"report.html": PAGE, "learning-curve.svg": CURVE}))
    assert ledger.documents("ranker/1") == (
        Document("learning-curve.svg", "image/svg+xml", len(CURVE), hashlib.sha256(CURVE).hexdigest()),
        Document("report.html", "text/html", len(PAGE), hashlib.sha256(PAGE).hexdigest()),
    )
    assert ledger.document("ranker", "report.html") == PAGE


def test_a_document_makes_no_other_version_and_is_none_of_its_files(ledger, draft):
    plain = ledger.register(draft("plain"))
    pictured = ledger.register(draft("pictured", documents={"report.html": PAGE}))
    assert pictured.files == plain.files
    again = ledger.register(draft("pictured", documents={"report.html": b"<p>another</p>"}))
    assert again == pictured
    assert ledger.document("pictured/1", "report.html") == PAGE


def test_a_version_has_no_documents_unless_it_was_given_some(ledger, draft):
    ledger.register(draft())
    assert ledger.documents("ranker/1") == ()
    with pytest.raises(NotRecorded, match=r"document of ranker/1 'report.html'"):
        ledger.document("ranker/1", "report.html")


def test_documents_of_another_version_are_not_ours(ledger, draft):
    ledger.register(draft(documents={"report.html": PAGE}))
    ledger.register(draft(weights=1, documents={"report.md": b"# other"}))
    assert names(ledger.documents("ranker/1")) == ["report.html"]
    with pytest.raises(NotRecorded, match=r"Did you mean 'report.html'"):
        ledger.document("ranker/1", "report.htm")


def test_documents_are_added_later_and_never_change(ledger, draft):
    ledger.register(draft(documents={"report.html": PAGE}))
    assert names(ledger.add_documents("ranker/1", {"pareto.svg": CURVE})) == ["pareto.svg", "report.html"]
    assert names(ledger.add_documents("ranker/1", {"pareto.svg": CURVE})) == ["pareto.svg", "report.html"]
    with pytest.raises(DefinitionConflict, match=r"'pareto.svg'"):
        ledger.add_documents("ranker/1", {"evaluation.json": b"{}", "pareto.svg": CURVE + b" "})
    assert names(ledger.documents("ranker/1")) == ["pareto.svg", "report.html"]


def test_of_two_who_add_a_document_at_once_one_is_refused(ledger, draft):
    ledger.register(draft())

    def add(number):
        try:
            ledger.add_documents("ranker/1", {"report.md": b"# %d" % number})
        except DefinitionConflict:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        (won,) = {number for number in pool.map(add, range(4)) if number is not None}
    assert ledger.document("ranker/1", "report.md") == b"# %d" % won


def test_the_same_bytes_are_of_the_kind_that_each_name_says(ledger, draft):
    ledger.register(draft(files={"report.md": PAGE}, documents={"report.html": PAGE, "source.md": PAGE}))
    assert [document.media_type for document in ledger.documents("ranker")] == ["text/html", "text/markdown"]


@pytest.mark.parametrize(
    "name",
    ["", "report", "report.exe", ".html", "a/report.html", "../report.html", "Report.html", "weights.safetensors",
     "report.html\n", "a" * 96 + ".html", "zwei seiten.html", "table.parquet"],
)  # fmt: skip
def test_a_name_that_is_no_plain_file_name_of_a_known_kind_is_refused(ledger, draft, name):
    with pytest.raises(ArtifactRefused, match=r"such as 'report.html'"):
        ledger.register(draft(documents={name: PAGE}))


def test_a_name_of_a_hundred_letters_and_every_kind_are_taken(ledger, draft):
    held = {"a" * 95 + ".html": PAGE, "a.svg": CURVE, "b.json": b"{}", "c.md": b"#", "d.png": PNG}
    ledger.register(draft(documents=held))
    assert {name: ledger.document("ranker", name) for name in held} == held


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.html", b"\x80\x04K\x01."), ("a.png", PNG[:-1]), ("a.png", PNG[1:]), ("a.json", b"{"), ("a.svg", b"\xff\xfe")],
)  # fmt: skip
def test_bytes_that_are_not_what_the_name_says_are_refused(ledger, draft, name, content):
    with pytest.raises(ArtifactRefused, match="is not|is a pickle"):
        ledger.register(draft(documents={name: content}))


def test_size_and_number_of_documents_are_bounded(ledger, draft):
    ledger.register(draft(documents={"a.md": b"a" * LARGEST}))
    with pytest.raises(ArtifactRefused, match="8,388,609 bytes; the limit is 8,388,608"):
        ledger.add_documents("ranker/1", {"b.md": b"a" * (LARGEST + 1)})
    ledger.add_documents("ranker/1", {f"{n}.md": b"#" for n in range(MOST - 1)})
    with pytest.raises(ArtifactRefused, match="33 documents"):
        ledger.add_documents("ranker/1", {"b.md": b"#"})
    with pytest.raises(ArtifactRefused, match="33 documents"):
        ledger.register(draft("other", documents={f"{n}.md": b"#" for n in range(MOST + 1)}))


def test_a_document_is_checked_against_its_digest_when_it_is_read(ledger, draft, tmp_path):
    ledger.register(draft(documents={"report.html": PAGE}))
    (document,) = ledger.documents("ranker/1")
    overwrite(tmp_path, document, b"<p>recall 0.99</p>")
    with pytest.raises(ArtifactCorrupt):
        ledger.document("ranker/1", "report.html")


def test_a_check_of_the_ledger_counts_documents_and_names_the_one_that_is_harmed(ledger, draft, tmp_path):
    ledger.register(draft(documents={"report.html": PAGE}))
    assert (ledger.fsck().artifacts, ledger.fsck().findings) == (3, ())
    overwrite(tmp_path, ledger.documents("ranker/1")[0], b"<p>")
    (finding,) = ledger.fsck().errors
    assert (finding.kind.name, finding.breaks) == (
        "artifact-corrupt",
        ("document 'report.html' of ranker/1",),
    )


def test_a_sweep_leaves_documents_alone_while_their_version_is_there(url, draft, tmp_path):
    later = datetime(2100, 1, 1, tzinfo=UTC)
    moments = [later]
    with open_registry(url, str(tmp_path / "a"), clock=lambda: moments[-1], protected=()) as ledger:
        ledger.register(draft(documents={"report.html": PAGE}))
        ledger.register(draft(weights=1))
        moments.append(later + timedelta(days=2))
        assert ledger.fsck(sweep=True).swept.files == 0
        assert ledger.document("ranker/1", "report.html") == PAGE
        ledger.delete("ranker/1")
        swept = ledger.fsck(sweep=True).swept
        assert (swept.files, swept.artifacts) == (
            2,
            2,
        )  # its config.json and the page; the other has the report.md
        assert ledger.fsck().findings == ()


def test_a_document_that_a_sweep_took_meanwhile_is_stored_again(ledger, draft, store, monkeypatch):
    put, swept = ArtifactStore.put, []

    def swept_once(self, content, name):
        artifact = put(self, content, name)
        if name == "report.html" and not swept:
            swept.append(name)
            store.delete(next(entry for entry in store.entries() if entry.sha256 == artifact.sha256))
        return artifact

    monkeypatch.setattr(ArtifactStore, "put", swept_once)
    ledger.register(draft(documents={"report.html": PAGE}))
    assert ledger.document("ranker/1", "report.html") == PAGE
    swept.clear()
    ledger.add_documents("ranker/1", {"report.md": b"# new"})
    ledger.register(draft("other"))
    ledger.add_documents("other/1", {"report.html": b"<p>new</p>"})
    assert ledger.document("other/1", "report.html") == b"<p>new</p>"


def test_documents_are_written_into_a_folder_each_checked(ledger, draft, tmp_path):
    ledger.register(draft(documents={"report.html": PAGE, "curve.svg": CURVE}))
    out = tmp_path / "reports" / "1"
    assert ledger.fetch_documents("ranker/1", out) == (out / "curve.svg", out / "report.html")
    assert (out / "report.html").read_bytes() == PAGE
    overwrite(tmp_path, ledger.documents("ranker/1")[0], b"<p>")
    with pytest.raises(ArtifactCorrupt):
        ledger.fetch_documents("ranker/1", out)
