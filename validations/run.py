"""The edge where Great Expectations runs: a context, a checkpoint over one table, Data Docs in a folder.

Contexts live in memory and know nothing of the working directory. With a docs folder, suites and results
are kept there as JSON beside the pages.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
import pyarrow as pa
from great_expectations.checkpoint import UpdateDataDocsAction
from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from validations.expectations import TableContract
from validations.suite import AS_OF, compile_suite

_VIEWS = "validations.local_view"


def run_suite(
    contract: TableContract, table: pa.Table, as_of: datetime, docs: Path | None
) -> ExpectationSuiteValidationResult:
    """Run the contract's suite over the table; with a folder, write Data Docs there.

    Great Expectations keeps the context it made last in a global of its own, so two threads must not
    run suites at the same time.
    """
    context = _context(docs)
    suite = context.suites.add_or_update(compile_suite(contract))
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset(contract.table)
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=contract.table, data=asset.add_batch_definition_whole_dataframe("whole"), suite=suite
        )
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=contract.table,
            validation_definitions=[validation],
            actions=[UpdateDataDocsAction(name="docs")] if docs else [],
        )
    )
    result = checkpoint.run(
        # Arrow's own columns inside pandas: nothing is copied, and null stays apart from NaN
        batch_parameters={"dataframe": table.to_pandas(types_mapper=pd.ArrowDtype)},
        expectation_parameters={AS_OF: as_of.isoformat()},
        run_id=RunIdentifier(run_name=f"as of {as_of:%Y-%m-%d %H%M%SZ}"),
    )
    (outcome,) = result.run_results.values()
    return outcome


def _context(docs: Path | None) -> EphemeralDataContext:
    """A context without progress bars, analytics, or any file outside `docs`."""
    defaults = InMemoryStoreBackendDefaults()
    config: dict[str, Any] = {}
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        for store in (defaults.expectations_store_name, defaults.validation_results_store_name):
            defaults.stores[store]["store_backend"] = _folder(docs / "results" / store)
        config["data_docs_sites"] = {
            "docs": {
                "module_name": _VIEWS,
                "class_name": "LocalSiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": _folder(docs),
                "site_section_builders": {
                    section: {"view": {"module_name": _VIEWS, "class_name": "LocalPageView"}}
                    for section in ("expectations", "validations", "profiling")
                },
            }
        }
    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=defaults,
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
            **config,
        ),
    )


def _folder(path: Path) -> dict[str, str]:
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(path.absolute())}
