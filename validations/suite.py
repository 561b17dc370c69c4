"""A contract as a Great Expectations suite, and the one expectation of ours that makes it affordable.

Great Expectations charges about 15 ms of CPU for every expectation, whatever the table. A suite of one
expectation per column and rule would spend over twenty seconds on 550 columns; this one has three, of
which `ExpectCellsToMeetContract` holds all columns at once against the contract and reports each.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa
from great_expectations.core.expectation_suite import ExpectationSuite
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.core.suite_parameters import SuiteParameterDict
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.core import (
    ExpectTableColumnsToMatchSet,
    ExpectTableRowCountToBeBetween,
)
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.render import LegacyDiagnosticRendererType, LegacyRendererType
from great_expectations.render.renderer.renderer import renderer

from validations import pages
from validations.contracts import contract_from_dict, contract_to_dict
from validations.expectations import TableContract
from validations.inspection import Inspection, inspect, inspection_from_json, inspection_to_json

AS_OF = "as_of"
"""The suite's one parameter: ISO text of the exclusive upper bound, given when the suite is run."""

_METRIC = "table.contract_inspection"


class ContractInspection(TableMetricProvider):  # type: ignore[misc]  # Great Expectations is untyped here
    """The metric behind `ExpectCellsToMeetContract`: a whole `Inspection` of the batch."""

    metric_name = _METRIC
    value_keys = ("contract", AS_OF)

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _inspect(
        cls,  # noqa: N805  Great Expectations binds metric functions to their class
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],  # noqa: ARG002  part of the signature it calls
        runtime_configuration: dict[str, Any],  # noqa: ARG002
    ) -> Inspection:
        frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, MetricDomainTypes.TABLE)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        contract = contract_from_dict(json.loads(metric_value_kwargs["contract"]))
        return inspect(contract, table, datetime.fromisoformat(metric_value_kwargs[AS_OF]))


class ExpectCellsToMeetContract(BatchExpectation):  # type: ignore[misc]
    """Expect every cell of the table to be what its column's contract says.

    Args:
        contract: `validations.contracts.contract_to_dict` of the contract, as JSON text.
        as_of: ISO text; timestamps at or after it are from the future.

    Contract and result travel as text: Great Expectations copies, converts and serialises what it is given
    a dozen times over, value by value, which took longer than the gate itself once every column failed.
    """

    contract: str
    as_of: str | SuiteParameterDict

    metric_dependencies: ClassVar[tuple[str, ...]] = (_METRIC,)
    success_keys: ClassVar[tuple[str, ...]] = ("contract", AS_OF)
    args_keys: ClassVar[tuple[str, ...]] = ("contract", AS_OF)

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002
        execution_engine: PandasExecutionEngine | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        inspection: Inspection = metrics[_METRIC]
        return {
            "success": not inspection.findings,
            "result": {
                "observed_value": pages.verdict(inspection),
                "details": {
                    "evaluated": inspection.evaluated,
                    "found": len(inspection.findings),
                    "inspection": inspection_to_json(inspection),
                },
            },
        }

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)  # type: ignore[untyped-decorator]
    def _prescriptive_renderer(
        cls,
        configuration: Any = None,
        result: Any = None,
        runtime_configuration: Any = None,  # noqa: ARG003
        **_: Any,
    ) -> list[Any]:
        expectation = configuration or result.expectation_config
        return pages.prescription(
            contract_from_dict(json.loads(expectation.kwargs["contract"])), expectation.kwargs[AS_OF]
        )

    @classmethod
    @renderer(renderer_type=LegacyDiagnosticRendererType.UNEXPECTED_TABLE)  # type: ignore[untyped-decorator]
    def _diagnostic_unexpected_table_renderer(
        cls,
        configuration: Any = None,  # noqa: ARG003
        result: Any = None,
        runtime_configuration: Any = None,  # noqa: ARG003
    ) -> list[Any] | None:
        details = result.result.get("details") if result else None
        return pages.tables(inspection_from_json(details["inspection"])) if details else None


def compile_suite(contract: TableContract) -> ExpectationSuite:
    """The contract as a suite: the table's length, its columns, and everything about their cells."""
    low, high = contract.row_count.low, contract.row_count.high
    return ExpectationSuite(
        name=contract.table,
        expectations=[
            ExpectTableRowCountToBeBetween(min_value=low, max_value=high, severity="critical"),
            ExpectTableColumnsToMatchSet(
                column_set=[column.name for column in contract.columns],
                exact_match=True,
                severity="critical",
            ),
            ExpectCellsToMeetContract(
                contract=json.dumps(contract_to_dict(contract), ensure_ascii=False),
                as_of={"$PARAMETER": AS_OF},
                severity="critical",
            ),
        ],
    )
