"""The report of a version is written out where a person finds it."""

import json

import pytest
from typer.testing import CliRunner

from matinee.cli import app
from matinee.session import opened
from registry import VersionDraft


@pytest.fixture
def workspaces(tmp_path, monkeypatch):
    monkeypatch.setenv("MATINEE_WORKSPACES", str(tmp_path / "workspaces"))
    monkeypatch.setenv("MATINEE_WORLD", "tiny")
    with opened("world") as day:
        documents = {"report.html": b"<p>good</p>", "learning-curve.svg": b"<svg/>"}
        day.registry.register(VersionDraft("ranker", {"config.json": b"{}"}, documents=documents))
        day.registry.register(VersionDraft("popular", {"config.json": b"{}"}))
    return tmp_path / "workspaces"


def test_documents_are_written_into_the_workspace_and_their_paths_printed(workspaces):
    answer = CliRunner().invoke(app, ["models", "report", "ranker"])
    folder = workspaces / "world" / "reports" / "ranker" / "1"
    assert answer.exit_code == 0
    assert answer.stdout.splitlines() == [str(folder / "learning-curve.svg"), str(folder / "report.html")]
    assert (folder / "report.html").read_bytes() == b"<p>good</p>"


def test_documents_are_written_where_asked(workspaces, tmp_path):
    answer = CliRunner().invoke(
        app, ["models", "report", "ranker/1", "--out", str(tmp_path / "out"), "--json"]
    )
    assert json.loads(answer.stdout)["documents"] == [
        str(tmp_path / "out" / name) for name in ("learning-curve.svg", "report.html")
    ]
    assert (tmp_path / "out" / "learning-curve.svg").read_bytes() == b"<svg/>"


def test_a_version_without_documents_says_so_and_prints_no_path(workspaces):
    answer = CliRunner().invoke(app, ["models", "report", "popular"])
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "popular/1 has no documents" in answer.stderr


@pytest.mark.slow
def test_training_sets_a_page_with_its_figures_beside_every_network(opened_day):
    ledger = opened_day.registry
    figures = {"retriever": ["learning-curve.svg"], "ranker": ["learning-curve.svg", "reliability.svg"]}
    for model, drawn in figures.items():
        assert [document.name for document in ledger.documents(model)] == [*drawn, "report.html"]
        page = ledger.document(model, "report.html").decode()
        assert page.count("data:image/svg+xml") == len(drawn)
        version = ledger.get(model)
        assert version.training_set in page
        assert "popularity_ever" in page
        assert "are simulated" in page
        assert all(given.service in page for given in version.signature.inputs)
    assert "retriever/1" in ledger.document("ranker", "report.html").decode()
