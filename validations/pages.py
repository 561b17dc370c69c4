"""What Data Docs show of a contract and of a table held against it: tables a person can read."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from great_expectations.render import CollapseContent, RenderedStringTemplateContent, RenderedTableContent

from validations.checks import Profile, describe, number, timestamp
from validations.expectations import DType, TableContract
from validations.inspection import Inspection

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
    rows = [
        [column.name, column.dtype.value, _expected(contract, column.name)] for column in contract.columns
    ]
    return [line, _table(["Column", "Type", "Expected"], rows)]


def column_rows(inspection: Inspection, contract: TableContract) -> list[list[str]]:
    """One row of text per column: name, verdict, type found, share of nulls, least, greatest, expected."""
    failed = {finding.column for finding in inspection.findings}
    return [
        [
            profile.name,
            "failed" if profile.name in failed else "passed",
            profile.found,
            f"{profile.null_share:.2%}",
            *_extremes(profile),
            _expected(contract, profile.name),
        ]
        for profile in inspection.profiles
    ]


def tables(findings: Sequence[Mapping[str, Any]], columns: Sequence[Sequence[str]]) -> list[Any]:
    """The findings as a table, if there are any, and every column folded away below it."""
    header = ["Column", "Verdict", "Type", "Null", "Least", "Greatest", "Expected"]
    folded = CollapseContent(
        collapse_toggle_link=f"Show all {len(columns)} columns…", collapse=[_table(header, columns)]
    )
    if not findings:
        return [folded]
    rows = [_finding_row(finding) for finding in findings]
    return [_table(["Column", "Expected", "Found", "Rows (key: value)"], rows), folded]


def _finding_row(finding: Mapping[str, Any]) -> list[str]:
    sample = "; ".join(f"{_key(one['key'], one['row'])}: {_shown(one['value'])}" for one in finding["sample"])
    return [finding["column"], finding["expectation"], finding["observed"], sample or "—"]


def _key(key: Sequence[int | str | None], row: int) -> str:
    return ", ".join(_shown(part) for part in key) if key else f"row {row}"


def _shown(value: int | str | None) -> str:
    return "null" if value is None else str(value)


def _extremes(profile: Profile) -> tuple[str, str]:
    if profile.nulls == profile.rows or (profile.low is None and profile.dtype is not DType.TIMESTAMP):
        return "—", "—"
    shown = timestamp if profile.dtype is DType.TIMESTAMP else number
    return shown(profile.low), shown(profile.high)


def _expected(contract: TableContract, name: str) -> str:
    column = next(column for column in contract.columns if column.name == name)
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
