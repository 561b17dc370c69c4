"""From a feature table to the contract its rows must honour before they reach the online store."""

from __future__ import annotations

from feature_repo.declarations import KNOWN, FeatureTable
from validations.expectations import Between, ColumnContract, DType, TableContract


def contract(table: FeatureTable) -> TableContract:
    """Key, timestamps and every feature with what is expected of it; the digests go along.

    An entity has one row, or several where rows are events, which `identified_by` tells apart.
    """
    columns = (
        ColumnContract(table.entity.join_key, DType.BIGINT, (KNOWN,)),
        ColumnContract("event_timestamp", DType.TIMESTAMP, (KNOWN,)),
        ColumnContract("created_timestamp", DType.TIMESTAMP, (KNOWN,)),
        *(ColumnContract(f.name, f.dtype, f.expect, f.digest, f.drift) for f in table.features),
    )
    return TableContract(
        table=table.name,
        key=(table.entity.join_key, *(table.identified_by if table.keep > 1 else ())),
        columns=columns,
        not_after=("event_timestamp", "created_timestamp"),
        row_count=Between(low=1),
        digest=table.digest,
        drift=table.drift,
        quarantine=table.quarantine,
    )
