"""A table contract as plain JSON values, and the digest that names it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from validations.expectations import (
    Between,
    ColumnContract,
    DriftLimits,
    DType,
    Expectation,
    Limits,
    NullShare,
    OneOf,
    Quarantine,
    TableContract,
)


def contract_to_dict(contract: TableContract) -> dict[str, Any]:
    """The contract as JSON values; `contract_from_dict` is its inverse."""
    return {
        "table": contract.table,
        "key": list(contract.key),
        "columns": [_column_to_dict(column) for column in contract.columns],
        "not_after": list(contract.not_after),
        "row_count": _expectation_to_dict(contract.row_count),
        "digest": contract.digest,
        "drift": _drift_to_dict(contract.drift),
        "quarantine": contract.quarantine.at_most if contract.quarantine else None,
    }


def contract_from_dict(values: Mapping[str, Any]) -> TableContract:
    """Rebuild what `contract_to_dict` wrote."""
    row_count = _expectation_from_dict(values["row_count"])
    if not isinstance(row_count, Between):
        raise TypeError(f"contract {values['table']!r}: row_count is {row_count}, which is no Between.")
    return TableContract(
        table=values["table"],
        key=tuple(values["key"]),
        columns=tuple(_column_from_dict(column) for column in values["columns"]),
        not_after=tuple(values["not_after"]),
        row_count=row_count,
        digest=values["digest"],
        drift=_drift_from_dict(values["drift"]),
        quarantine=None if values["quarantine"] is None else Quarantine(values["quarantine"]),
    )


def contract_digest(contract: TableContract) -> str:
    """SHA-256 (64 hex digits) of the contract's canonical JSON.

    Two contracts have one digest exactly when they expect the same, in every process and release:
    keys are sorted, numbers are written as doubles, nothing depends on hash order.
    """
    canonical = json.dumps(
        contract_to_dict(contract), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _column_to_dict(column: ColumnContract) -> dict[str, Any]:
    return {
        "name": column.name,
        "dtype": column.dtype.value,
        "expectations": [_expectation_to_dict(expectation) for expectation in column.expectations],
        "digest": column.digest,
        "drift": _drift_to_dict(column.drift) if column.drift else None,
    }


def _column_from_dict(values: Mapping[str, Any]) -> ColumnContract:
    expectations = tuple(_expectation_from_dict(expectation) for expectation in values["expectations"])
    drift = _drift_from_dict(values["drift"]) if values["drift"] else None
    return ColumnContract(values["name"], DType(values["dtype"]), expectations, values["digest"], drift)


def _drift_to_dict(limits: DriftLimits) -> dict[str, Any]:
    figures = {"psi": limits.psi, "ks": limits.ks, "null_share": limits.null_share}
    steps = {
        name: {step: None if limit is None else float(limit) for step, limit in vars(one).items()}
        for name, one in figures.items()
    }
    return {**steps, "chance": float(limits.chance), "bins": limits.bins}


def _drift_from_dict(values: Mapping[str, Any]) -> DriftLimits:
    figures = {name: Limits(**values[name]) for name in ("psi", "ks", "null_share")}
    return DriftLimits(**figures, chance=values["chance"], bins=values["bins"])


def _expectation_to_dict(expectation: Expectation) -> dict[str, Any]:
    match expectation:
        case Between(low, high):
            return {"expect": "between", "low": _double(low), "high": _double(high)}
        case NullShare(at_most):
            return {"expect": "null_share", "at_most": float(at_most)}
        case OneOf(values):
            return {"expect": "one_of", "values": list(values)}


def _expectation_from_dict(values: Mapping[str, Any]) -> Expectation:
    match values:
        case {"expect": "between", "low": low, "high": high}:
            return Between(_number(low), _number(high))
        case {"expect": "null_share", "at_most": at_most}:
            return NullShare(at_most)
        case {"expect": "one_of", "values": allowed}:
            return OneOf(allowed)
    raise ValueError(f"no expectation reads {dict(values)}. Known: between, null_share, one_of.")


def _double(bound: float | None) -> float | str | None:
    """A bound as JSON writes it: an infinite one is text, which JSON has no number for."""
    if bound is None:
        return None
    return bound + 0.0 if math.isfinite(bound) else str(float(bound))  # + 0.0: −0 and 0 are one bound


def _number(bound: float | str | None) -> float | None:
    return None if bound is None else float(bound)
