"""The suite is Great Expectations' own, and its Data Docs can be read by a person."""

import html
import math
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from validations.expectations import Between, ColumnContract, DType, NullShare, OneOf, TableContract
from validations.gate import Reference, check
from validations.sketch import histogram, sketches, svg
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
    (page,) = (folder / "tables").rglob("*.html")
    return page


def great_expectations_page_of(folder):
    (page,) = (folder / "great_expectations" / "validations").rglob("*.html")
    return page


def test_the_suite_is_three_expectations_whatever_the_number_of_columns():
    wide = tuple(ColumnContract(f"f{i}", DType.FLOAT, (Between(0, 1),)) for i in range(550))
    suite = compile_suite(TableContract("wide", ("f0",), wide))
    assert [expectation.expectation_type for expectation in suite.expectations] == [
        "expect_table_row_count_to_be_between",
        "expect_table_columns_to_match_set",
        "expect_cells_to_meet_contract",
    ]


def test_the_page_of_a_failing_run_shows_each_finding_with_its_rows(tmp_path):
    report = check(CONTRACT, titles("Metropolis", "M", ratings=(6.0, None)), as_of=AS_OF, docs=tmp_path)
    assert not report.passed
    text = words(page_of(tmp_path))
    assert "titles failed As of 2026-03-01 00:00:00 UTC Rows 2" in text
    assert "2 findings, the worst first" in text
    assert (
        "error rating expected between 0.5 and 5, found 1 of 2 outside, values from 6 to 6 Row Key Value 0 11 6.0"
        in text
    )
    assert "error name expected one of <Nosferatu>, Metropolis, found 1 of 2 something else" in text
    assert "rating error FLOAT 50.00% 6 6 between 0.5 and 5; null in at most 0.5 of rows" in text


def test_great_expectations_own_page_shows_the_findings_too(tmp_path):
    check(CONTRACT, titles("Metropolis", "M", ratings=(6.0, None)), as_of=AS_OF, docs=tmp_path)
    text = words(great_expectations_page_of(tmp_path))
    assert "Status: Failed" in text
    assert "rating between 0.5 and 5 1 of 2 outside, values from 6 to 6 11: 6.0" in text
    check(CONTRACT, titles("Metropolis", "Metropolis"), as_of=AS_OF + timedelta(days=1), docs=tmp_path)
    pages = (tmp_path / "great_expectations" / "validations").rglob("*.html")
    assert sum("Status: Succeeded" in words(page) for page in pages) == 1


def test_the_page_of_a_passing_run_still_shows_every_column(tmp_path):
    assert check(CONTRACT, titles("Metropolis", "<Nosferatu>"), as_of=AS_OF, docs=tmp_path).passed
    text = words(page_of(tmp_path))
    assert "titles passed As of" in text
    assert "No findings" in text
    assert "title_id passed BIGINT 0.00% 11 12" in text
    assert "rating passed FLOAT 50.00% 1 1" in text


def test_findings_stand_on_the_page_with_the_worst_first(tmp_path):
    many = {f"f{i}": pa.array([1.0] * i + [2.0] * (9 - i), pa.float32()) for i in range(9)}
    columns = tuple(ColumnContract(name, DType.FLOAT, (Between(0, 1),)) for name in many)
    contract = TableContract("many", ("f0",), columns)
    check(contract, pa.table(many), as_of=AS_OF, docs=tmp_path)
    shown = re.findall(r'class="finding" data-text="error (\w+)', page_of(tmp_path).read_text())
    # nine 2s in f0, which are also nine equal keys; then one fewer in each column
    assert shown == ["f0", "f0", *(f"f{i}" for i in range(1, 9))]


def test_the_suite_page_says_what_is_expected_of_every_column(tmp_path):
    check(CONTRACT, titles("Metropolis", "Metropolis"), as_of=AS_OF, docs=tmp_path)
    text = words(tmp_path / "great_expectations" / "expectations" / "titles.html")
    assert "rating FLOAT between 0.5 and 5; null in at most 0.5 of rows" in text
    assert "(title_id) is its key" in text


def test_values_from_the_table_cannot_become_markup(tmp_path):
    wild = titles('<script>alert(1)</script>" onload="', "${line} $name")
    check(CONTRACT, wild, as_of=AS_OF, docs=tmp_path, reference=Reference("<b>earlier", wild))
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert "<script>alert(1)" not in text
        assert "<b>" not in text
    assert '0 11 <script>alert(1)</script>" onload=" 1 12 ${line} $name' in words(page_of(tmp_path))


def test_the_index_lists_earlier_runs_and_other_tables_too(tmp_path):
    other = TableContract("artworks", CONTRACT.key, CONTRACT.columns)
    for contract, as_of in [(CONTRACT, AS_OF), (CONTRACT, AS_OF + timedelta(days=1)), (other, AS_OF)]:
        check(contract, titles("Metropolis", "M"), as_of=as_of, docs=tmp_path)
    linked = re.findall(r'<a href="(tables/[^"]+)"', (tmp_path / "index.html").read_text())
    assert [tmp_path / unquote(link) for link in linked] == [
        tmp_path / "tables" / name
        for name in (
            "titles/as_of=2026-03-02T000000Z.html",
            "titles/as_of=2026-03-01T000000Z.html",
            "artworks/as_of=2026-03-01T000000Z.html",
        )
    ]
    assert all((tmp_path / unquote(link)).exists() for link in linked)
    assert "titles 2026-03-02 00:00:00 failed 2 0 1 0 0" in words(tmp_path / "index.html")


def test_a_table_checked_again_stands_in_the_index_once_with_its_newest_verdict(tmp_path):
    for names in (("Metropolis", "M"), ("Metropolis", "Metropolis")):
        check(CONTRACT, titles(*names), as_of=AS_OF, docs=tmp_path)
    text = words(tmp_path / "index.html")
    assert "titles 2026-03-01 00:00:00 passed 2" in text
    assert "failed" not in text


REMOTE = re.compile(rb"""(?:https?:)?//[\w.-]+\.\w+|@import|url\(|<(?:link|img|iframe|object)\b|\bsrc=""")


def test_no_file_of_the_docs_asks_another_host_for_anything(tmp_path):
    """Not of a host, and not of another file either: styles and scripts are in the page."""
    check(CONTRACT, titles("Metropolis", "M", ratings=(6.0, None)), as_of=AS_OF, docs=tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files if file.stat().st_size} <= {".html", ".json", ""}
    assert len([file for file in files if file.suffix == ".html"]) == 4  # index, table, suite, result
    for file in files:
        assert not REMOTE.search(file.read_bytes()), file


def test_our_own_pages_forbid_the_browser_to_load_anything(tmp_path):
    check(CONTRACT, titles("Metropolis", "M"), as_of=AS_OF, docs=tmp_path)
    for page in (tmp_path / "index.html", page_of(tmp_path)):
        assert (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"" in page.read_text()
        )


def test_every_column_and_finding_can_be_searched_and_is_folded_away(tmp_path):
    check(CONTRACT, titles("Metropolis", "M", ratings=(6.0, None)), as_of=AS_OF, docs=tmp_path)
    page = page_of(tmp_path).read_text()
    searched = re.findall(r'<tr class="column" data-text="([^"]+)"', page)
    assert [text.split()[0] for text in searched] == ["title_id", "name", "rating"]
    assert 'data-of=".finding"' in page
    assert 'data-of=".column"' in page
    assert "<details open" not in page


def test_a_very_bad_table_has_a_page_of_bounded_weight(tmp_path):
    """550 columns that all fail: samples of the first 200, a line for each of the others."""
    cells = {f"f{i}": pa.array([2.0] * 20, pa.float32()) for i in range(550)}
    contract = TableContract(
        "bad", (), tuple(ColumnContract(n, DType.FLOAT, (Between(0, 1),)) for n in cells)
    )
    check(contract, pa.table(cells), as_of=AS_OF, docs=tmp_path)
    page = page_of(tmp_path).read_text()
    assert page.count('<details class="finding"') == 550
    assert page.count("<tr><th>Row<th>Key<th>Value") == 200
    assert len(page) < 1_000_000
    assert "and 500 more" in words(great_expectations_page_of(tmp_path))


@given(st.lists(st.one_of(st.none(), st.floats(width=32), st.integers(-5, 5).map(float)), max_size=60))
def test_a_sketch_counts_every_finite_value_once(values):
    finite = [v for v in values if v is not None and math.isfinite(v)]
    bars = histogram(pa.chunked_array([pa.array(values, pa.float32())]))
    assert sum(bars) == len(finite)
    if finite:
        assert bars[0] >= finite.count(min(finite))
        assert bars[-1 if max(finite) > min(finite) else 0] >= finite.count(max(finite))


def test_a_sketch_is_a_histogram():
    # 0..15 once each, and 15 three times more
    bars = histogram(pa.chunked_array([pa.array([*range(16), 15, 15, 15, None], pa.int64())]))
    assert bars == (*[1] * 15, 4)
    assert svg((1, 0, 4)).count("M") == 2  # nothing is drawn of an empty bin
    assert "v-20h" in svg((1, 0, 4))
    assert "v-5h" in svg((1, 0, 4))  # a quarter as tall


def test_a_sketch_of_a_large_table_is_drawn_from_rows_all_over_it():
    rising = pa.table({"x": np.arange(1_000_000)})
    (drawn,) = sketches(rising, ["x"]).values()
    bars = list(map(int, re.search(r'aria-label="([\d ]+)"', drawn)[1].split()))
    assert sum(bars) == 10_000
    assert max(bars) - min(bars) <= 1


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
