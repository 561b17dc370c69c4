"""What Great Expectations' own pages show of a contract and of a table held against it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from great_expectations.render import RenderedStringTemplateContent, RenderedTableContent

from validations.checks import describe
from validations.expectations import ColumnContract, TableContract
from validations.inspection import Inspection
from validations.report import Finding, Sample, worst_first

FINDINGS_SHOWN = 50
"""How many findings a page of Great Expectations names; it is heavy to draw and hard to read beyond."""

_COMPACT = {"body": {"classes": ["table-bordered", "table-sm", "mt-3"]}}


def verdict(inspection: Inspection) -> str:
    """One line: how many checks there were, and how many of them found something."""
    return f"{len(inspection.findings):,} of {inspection.evaluated:,} checks found something"


def prescription(contract: TableContract, as_of: Any) -> list[Any]:
    """What the contract expects, in a line; in a suite, which has no `as_of` yet, column by column too."""
    known = f" as of {as_of}" if isinstance(as_of, str) else ""
    future = (
        f"; nothing in {' or '.join(contract.not_after)} is from the future" if contract.not_after else ""
    )
    line = _text(
        f"Every cell of {len(contract.columns)} columns meets the contract of {contract.table}{known}; "
        f"({', '.join(contract.key)}) is its key{future}."
    )
    if known:
        return [line]
    rows = [[column.name, column.dtype.value, expected_text(column)] for column in contract.columns]
    return [line, _table(["Column", "Type", "Expected"], rows)]


def tables(inspection: Inspection) -> list[Any]:
    """The worst findings as a table; every finding and every column are on the page beside (`validations.docs`)."""
    if not inspection.findings:
        return []
    worst = worst_first(inspection.findings)[:FINDINGS_SHOWN]
    shown = [_table(["Column", "Expected", "Found", "Rows (key: value)"], map(_finding_row, worst))]
    left = len(inspection.findings) - len(worst)
    return [*shown, _text(f"… and {left:,} more: see the table's own page.")] if left else shown


def _finding_row(finding: Finding) -> list[str]:
    sample = "; ".join(f"{key_text(one)}: {value_text(one.value)}" for one in finding.sample)
    return [finding.column, finding.expectation, finding.observed, sample or "—"]


def key_text(sample: Sample) -> str:
    """The key of an offending row, or where the row stands if the table has none."""
    return ", ".join(map(value_text, sample.key)) if sample.key else f"row {sample.row}"


def value_text(value: int | str | None) -> str:
    """A value for people."""
    return "null" if value is None else str(value)


def expected_text(column: ColumnContract) -> str:
    """What a contract declares of a column, in words."""
    return "; ".join(describe(expectation) for expectation in column.expectations) or "—"


def _text(line: str) -> RenderedStringTemplateContent:
    template = {"template": "$line", "params": {"line": html.escape(line)}}
    return RenderedStringTemplateContent(content_block_type="string_template", string_template=template)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderedTableContent:
    """A table of text; escaped here, since Data Docs print cells as they come and ours quote raw values."""
    return RenderedTableContent(
        content_block_type="table",
        header_row=list(header),
        table=[[html.escape(cell) for cell in row] for row in rows],
        styling=_COMPACT,
    )
