"""From a feature table to the contract its rows must honour before they reach the online store."""

from __future__ import annotations

from feature_repo.declarations import KNOWN, FeatureTable
from validations.expectations import Between, ColumnContract, DType, TableContract


def contract(table: FeatureTable) -> TableContract:
    """Key, timestamps and every feature with what is expected of it; the table's digest goes along."""
    columns = (
        ColumnContract(table.entity.join_key, DType.BIGINT, (KNOWN,)),
        ColumnContract("event_timestamp", DType.TIMESTAMP, (KNOWN,)),
        ColumnContract("created_timestamp", DType.TIMESTAMP, (KNOWN,)),
        *(ColumnContract(f.name, f.dtype, f.expect) for f in table.features),
    )
    return TableContract(
        table=table.name,
        key=(table.entity.join_key,),
        columns=columns,
        not_after=("event_timestamp", "created_timestamp"),
        row_count=Between(low=1),
        digest=table.digest,
    )
