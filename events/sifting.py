"""Sifting: which rows of a batch are new and good, which are there already, which break a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from events.checks import Rule, arrow_schema, rules
from validations.expectations import TableContract


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
        con.register("raw", _numbered(rows))
        con.execute(f"CREATE TEMP TABLE cast_ AS {_cast_sql(contract, rows.schema)}")
        found = rules(contract, rows.schema, received_at)
        con.execute(f"CREATE TEMP TABLE verdict AS {_verdict_sql(found)}")
        _refuse_second_of_a_key(con, contract)
        repeated = _compare_with_the_lake(con, contract, there)
        return Sifted(_accepted(con, contract), _refused(con, rows), repeated)


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column("_row", pa.array(np.arange(rows.num_rows)))


def _cast_sql(contract: TableContract, given: pa.Schema) -> str:
    columns = [
        f'TRY_CAST({_value(column.name, given)} AS {column.dtype}) AS "{column.name}"'
        for column in contract.columns
    ]
    return f"SELECT _row, {', '.join(columns)} FROM raw ORDER BY _row"


def _value(column: str, given: pa.Schema) -> str:
    return f'"{column}"' if column in given.names else "NULL"


def _verdict_sql(found: Sequence[Rule]) -> str:
    """Rows that break a rule: which rules (labels) and why (text)."""
    broken = " OR ".join(f"coalesce({rule.broken}, false)" for rule in found)
    labels = ", ".join(f"CASE WHEN {rule.broken} THEN '{rule.label}' END" for rule in found)
    details = ", ".join(f"CASE WHEN {rule.broken} THEN {rule.detail} END" for rule in found)
    return f"""
        SELECT raw._row AS _row,
               list_filter([{labels}], lambda said: said IS NOT NULL) AS rules,
               array_to_string(list_filter([{details}], lambda said: said IS NOT NULL), '; ') AS reason
        FROM raw JOIN cast_ USING (_row) WHERE {broken}"""


def _key(contract: TableContract, prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in contract.key)


def _refuse_second_of_a_key(con: duckdb.DuckDBPyConnection, contract: TableContract) -> None:
    label = f"{', '.join(contract.key)}: duplicate in batch"
    con.execute(f"""
        INSERT INTO verdict
        SELECT _row, ['{label}'], concat_ws(' ', {_said(contract)}, 'comes twice in one batch')
        FROM (FROM cast_ WHERE _row NOT IN (SELECT _row FROM verdict))
        QUALIFY row_number() OVER (PARTITION BY {_key(contract)} ORDER BY _row) > 1""")


def _compare_with_the_lake(
    con: duckdb.DuckDBPyConnection, contract: TableContract, there: Sequence[Path]
) -> int:
    """Take out of `cast_` what the lake has, refuse what it contradicts; returns the number taken out."""
    if not there:
        return 0
    names = ", ".join(f'"{column.name}"' for column in contract.columns)
    con.execute(
        f"""CREATE TEMP TABLE known AS
            SELECT {names} FROM read_parquet($1, hive_partitioning = false)
            SEMI JOIN (FROM cast_ WHERE _row NOT IN (SELECT _row FROM verdict)) USING ({_key(contract)})""",
        [[str(path) for path in there]],
    )
    con.execute(f"""
        CREATE TEMP TABLE twin AS
        SELECT _row, {_key(contract, "cast_.")}, ({_fields(contract, "cast_")}) = ({_fields(contract, "known")}) AS same
        FROM cast_ JOIN known USING ({_key(contract)}) WHERE _row NOT IN (SELECT _row FROM verdict)""")
    label = f"{', '.join(contract.key)}: duplicate in lake"
    con.execute(f"""
        INSERT INTO verdict
        SELECT _row, ['{label}'],
               concat_ws(' ', {_said(contract)}, 'is in the lake with other values')
        FROM twin WHERE NOT same""")
    con.execute("DELETE FROM cast_ WHERE _row IN (SELECT _row FROM twin WHERE same)")
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
        SELECT {", ".join(f'"{name}"' for name in schema.names)} FROM cast_
        WHERE _row NOT IN (SELECT _row FROM verdict) ORDER BY event_timestamp, {_key(contract)}""")
    return good.to_arrow_table().cast(schema)


def _refused(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
    verdict = con.sql("SELECT _row, rules, reason FROM verdict ORDER BY _row").to_arrow_table()
    as_they_came = rows.take(verdict["_row"])
    return as_they_came.append_column("rules", verdict["rules"]).append_column("reason", verdict["reason"])
