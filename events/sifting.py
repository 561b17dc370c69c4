"""Sifting: which rows of a batch are new and good, which are there already, which break a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from events.checks import arrow_schema, rules
from validations.expectations import ColumnContract, TableContract


@dataclass(frozen=True)
class Sifted:
    """`accepted` in the contract's types, ordered by event; `refused` as it came, with `rules` and `reason`."""

    accepted: pa.Table
    refused: pa.Table
    repeated: int


def sift(contract: TableContract, rows: pa.Table, there: Sequence[Path], received_at: datetime) -> Sifted:
    """Sort a batch into new, repeated and refused rows; `there` are the parts already in the lake.

    Of rows that share a key the first good one counts. A row whose key is in the lake is repeated when
    it is equal in every column, and refused when it differs.
    """
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("batch", _numbered(rows))
        con.execute(f"CREATE TEMP TABLE sifted AS {_sift_sql(contract, rows.schema, received_at)}")
        con.execute("CREATE TEMP TABLE verdict (_row BIGINT, rules VARCHAR[], reason VARCHAR)")
        if con.execute("SELECT bool_or(broken) FROM sifted").fetchall()[0][0]:
            con.execute(f"INSERT INTO verdict {_verdict_sql(contract, rows.schema, received_at)}")
        _refuse_second_of_a_key(con, contract)
        repeated = _compare_with_the_lake(con, contract, there)
        return Sifted(_accepted(con, contract), _refused(con, rows), repeated)


_GOOD = "FROM sifted WHERE _row NOT IN (SELECT _row FROM verdict)"


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column("_row", pa.array(np.arange(rows.num_rows)))


def _typed_sql(contract: TableContract, given: pa.Schema) -> str:
    """Two structs a row: `raw` as it came, `typed` as the contract wants it, null where it cannot be had."""
    raw = ", ".join(f"'{name}': \"{name}\"" for name in given.names)
    typed = ", ".join(f"'{c.name}': {_cast(c, given)}" for c in contract.columns)
    return f"SELECT _row, {{{raw}}} AS raw, {{{typed}}} AS typed FROM batch"


def _cast(column: ColumnContract, given: pa.Schema) -> str:
    value = f'"{column.name}"' if column.name in given.names else "NULL"
    return f"TRY_CAST({value} AS {column.dtype})"


def _sift_sql(contract: TableContract, given: pa.Schema, received_at: datetime) -> str:
    """Every row in the contract's types, with `broken`: whether it breaks a rule on single rows."""
    broken = " OR ".join(f"coalesce({rule.broken}, false)" for rule in rules(contract, given, received_at))
    return f"SELECT _row, ({broken}) AS broken, unnest(typed) FROM ({_typed_sql(contract, given)})"


def _verdict_sql(contract: TableContract, given: pa.Schema, received_at: datetime) -> str:
    """Rows that break a rule: which rules (labels) and why (text)."""
    found = rules(contract, given, received_at)
    labels = ", ".join(f"CASE WHEN {rule.broken} THEN '{rule.label}' END" for rule in found)
    details = ", ".join(f"CASE WHEN {rule.broken} THEN {rule.detail} END" for rule in found)
    return f"""
        SELECT _row, list_filter([{labels}], lambda said: said IS NOT NULL) AS rules,
               array_to_string(list_filter([{details}], lambda said: said IS NOT NULL), '; ') AS reason
        FROM ({_typed_sql(contract, given)}) WHERE _row IN (SELECT _row FROM sifted WHERE broken)"""


def _key(contract: TableContract, prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in contract.key)


def _refuse_second_of_a_key(con: duckdb.DuckDBPyConnection, contract: TableContract) -> None:
    label = f"{', '.join(contract.key)}: duplicate in batch"
    con.execute(f"""
        INSERT INTO verdict
        SELECT _row, ['{label}'], concat_ws(' ', {_said(contract)}, 'comes twice in one batch')
        FROM sifted WHERE NOT broken
        QUALIFY row_number() OVER (PARTITION BY {_key(contract)} ORDER BY _row) > 1""")


def _compare_with_the_lake(
    con: duckdb.DuckDBPyConnection, contract: TableContract, there: Sequence[Path]
) -> int:
    """Take out of `sifted` what the lake has, refuse what it contradicts; returns the number taken out."""
    if not there:
        return 0
    names = ", ".join(f'"{column.name}"' for column in contract.columns)
    con.execute(
        f"""CREATE TEMP TABLE known AS
            SELECT {names} FROM read_parquet($1, hive_partitioning = false)
            SEMI JOIN ({_GOOD}) USING ({_key(contract)})""",
        [[str(path) for path in there]],
    )
    con.execute(f"""
        CREATE TEMP TABLE twin AS
        SELECT _row, {_key(contract, "sifted.")}, ({_fields(contract, "sifted")}) = ({_fields(contract, "known")}) AS same
        FROM ({_GOOD}) AS sifted JOIN known USING ({_key(contract)})""")
    label = f"{', '.join(contract.key)}: duplicate in lake"
    con.execute(f"""
        INSERT INTO verdict
        SELECT _row, ['{label}'],
               concat_ws(' ', {_said(contract)}, 'is in the lake with other values')
        FROM twin WHERE NOT same""")
    con.execute("DELETE FROM sifted WHERE _row IN (SELECT _row FROM twin WHERE same)")
    (repeated,) = con.execute("SELECT count(*) FROM twin WHERE same").fetchall()[0]
    return int(repeated)


def _fields(contract: TableContract, table: str) -> str:
    """A struct of all columns: structs compare equal where both sides of a field are null."""
    return "{" + ", ".join(f"'{c.name}': {table}.\"{c.name}\"" for c in contract.columns) + "}"


def _said(contract: TableContract) -> str:
    return ", ".join(f"""'{name} ' || "{name}"::VARCHAR""" for name in contract.key)


def _accepted(con: duckdb.DuckDBPyConnection, contract: TableContract) -> pa.Table:
    schema = arrow_schema(contract)
    good = con.sql(f"""
        SELECT {", ".join(f'"{name}"' for name in schema.names)} FROM sifted
        WHERE _row NOT IN (SELECT _row FROM verdict) ORDER BY event_timestamp, {_key(contract)}""")
    return good.to_arrow_table().cast(schema)


def _refused(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
    verdict = con.sql("SELECT _row, rules, reason FROM verdict ORDER BY _row").to_arrow_table()
    as_they_came = rows.take(verdict["_row"])
    return as_they_came.append_column("rules", verdict["rules"]).append_column("reason", verdict["reason"])
