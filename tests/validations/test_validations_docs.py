"""The suite is Great Expectations' own, and its Data Docs can be read by a person."""

import html
import re
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from validations.expectations import Between, ColumnContract, DType, NullShare, OneOf, TableContract
from validations.gate import check
from validations.suite import compile_suite

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
CONTRACT = TableContract(
    "titles",
    key=("title_id",),
    columns=(
        ColumnContract("title_id", DType.BIGINT),
        ColumnContract("name", DType.VARCHAR, (OneOf(["Metropolis", "<Nosferatu>"]),)),
        ColumnContract("rating", DType.FLOAT, (Between(0.5, 5), NullShare(0.5))),
    ),
)


def titles(*names, ratings=(1.0, None)):
    return pa.table({"title_id": [11, 12], "name": list(names), "rating": pa.array(ratings, pa.float32())})


def words(page):
    """What a reader sees of an HTML page."""
    text = re.sub(r"<(script|style)[\s\S]*?</\1>", " ", page.read_text())
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def page_of(folder):
    (page,) = (folder / "validations").rglob("*.html")
    return page


def test_the_suite_is_three_expectations_whatever_the_number_of_columns():
    wide = tuple(ColumnContract(f"f{i}", DType.FLOAT, (Between(0, 1),)) for i in range(550))
    suite = compile_suite(TableContract("wide", ("f0",), wide))
    assert [expectation.expectation_type for expectation in suite.expectations] == [
        "expect_table_row_count_to_be_between",
        "expect_table_columns_to_match_set",
        "expect_cells_to_meet_contract",
    ]


def test_data_docs_of_a_failing_run_show_each_finding_with_its_rows(tmp_path):
    report = check(CONTRACT, titles("Metropolis", "M", ratings=(6.0, None)), as_of=AS_OF, docs=tmp_path)
    assert not report.passed
    text = words(page_of(tmp_path))
    assert "Status: Failed" in text
    assert "rating between 0.5 and 5 1 of 2 outside, values from 6 to 6 11: 6.0" in text
    assert "name one of <Nosferatu>, Metropolis 1 of 2 something else 12: M" in text
    assert "rating failed FLOAT 50.00% 6 6 between 0.5 and 5; null in at most 0.5 of rows" in text


def test_data_docs_of_a_passing_run_still_show_every_column(tmp_path):
    assert check(CONTRACT, titles("Metropolis", "<Nosferatu>"), as_of=AS_OF, docs=tmp_path).passed
    text = words(page_of(tmp_path))
    assert "Status: Succeeded" in text
    assert "title_id passed BIGINT 0.00% 11 12" in text
    assert "rating passed FLOAT 50.00% 1 1" in text


def test_the_suite_page_says_what_is_expected_of_every_column(tmp_path):
    check(CONTRACT, titles("Metropolis", "Metropolis"), as_of=AS_OF, docs=tmp_path)
    text = words(tmp_path / "expectations" / "titles.html")
    assert "rating FLOAT between 0.5 and 5; null in at most 0.5 of rows" in text
    assert "(title_id) is its key" in text


def test_values_from_the_table_cannot_become_markup(tmp_path):
    check(CONTRACT, titles("<script>alert(1)</script>", "${line} $name"), as_of=AS_OF, docs=tmp_path)
    page = page_of(tmp_path)
    assert "<script>alert(1)" not in page.read_text()
    assert "11: <script>alert(1)</script>; 12: ${line} $name" in html.unescape(page.read_text())


def test_the_index_lists_earlier_runs_and_other_tables_too(tmp_path):
    other = TableContract("artworks", CONTRACT.key, CONTRACT.columns)
    for contract, as_of in [(CONTRACT, AS_OF), (CONTRACT, AS_OF + timedelta(days=1)), (other, AS_OF)]:
        check(contract, titles("Metropolis", "M"), as_of=as_of, docs=tmp_path)
    index = (tmp_path / "index.html").read_text()
    pages = list((tmp_path / "validations").rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        assert str(page.relative_to(tmp_path)) in index.replace("%20", " ")


def test_nothing_is_sent_anywhere(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the gate reached for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert check(CONTRACT, titles("Metropolis", "Metropolis"), as_of=AS_OF, docs=tmp_path).passed


def test_without_a_folder_nothing_is_written_and_nothing_is_printed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    check(CONTRACT, titles("Metropolis", "M"), as_of=AS_OF)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("poisoned", [0, 40])
def test_a_wide_table_is_checked_and_documented_in_seconds(tmp_path, poisoned):
    """230 columns × 20,000 rows took plain Great Expectations over ten seconds of CPU; the target is three."""
    rng = np.random.default_rng(7)
    cells = {
        f"f{i}": pa.array(rng.random(20_000, dtype=np.float32) * (2 if i < poisoned else 1))
        for i in range(230)
    }
    contract = TableContract(
        "wide",
        ("user_id",),
        (
            ColumnContract("user_id", DType.BIGINT),
            *(ColumnContract(name, DType.FLOAT, (Between(0, 1), NullShare(0.1))) for name in cells),
        ),
    )
    table = pa.table({"user_id": range(20_000), **cells})
    started = time.process_time()
    report = check(contract, table, as_of=AS_OF, docs=tmp_path)
    assert time.process_time() - started < 3  # of CPU, so that a busy machine does not fail it
    assert [finding.column for finding in report.findings] == [f"f{i}" for i in range(poisoned)]
