"""The documentation site: a search, and a page a table; no server, no network, the same bytes from the same values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from events.sources import SOURCES, Source
from feature_repo.assets import SCRIPT, STYLE
from feature_repo.compile import compile_table, pair_sql
from feature_repo.compute import recorded
from feature_repo.declarations import Declarations, Derived, Feature, FeatureTable
from feature_repo.distributions import distributions
from feature_repo.formula import expected, formula
from feature_repo.pages import Computed, Usage, index_page, table_page


def write_site(
    declarations: Declarations,
    folder: Path,
    computed: Mapping[str, Computed] | None = None,
    usage: Mapping[str, Usage] | None = None,
) -> Path:
    """Write the site into `folder` and return its `index.html`.

    Args:
        declarations: what is documented; alone they give the same bytes every time.
        folder: made if need be; pages of tables that are no longer declared are taken away.
        computed: by table, what its newest file holds (`newest_computed`).
        usage: by feature digest, which models and arms read it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = site(declarations, computed or {}, usage or {})
    for old in set(folder.glob("*.html")) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text)
    return folder / "index.html"


def site(
    declarations: Declarations, computed: Mapping[str, Computed], usage: Mapping[str, Usage]
) -> dict[str, str]:
    """File name → text of the whole site."""
    source = SOURCES[declarations.source]
    tables = {
        f"{table.name}.html": table_page(
            source.name, table, compiled(table, source), computed.get(table.name), usage
        )
        for table in declarations.tables
    }
    rows = [described(table, feature) for table in declarations.tables for feature in table.features]
    found = [
        [t.name, f.name, f.description, f.unit, f.owner] for t in declarations.tables for f in t.features
    ]
    return {
        "index.html": index_page(declarations, computed),
        **tables,
        "features.json": json.dumps(rows, indent=1, ensure_ascii=False) + "\n",
        "features.js": f"const FEATURES = {json.dumps(found, ensure_ascii=False, separators=(',', ':'))};\n",
        "style.css": STYLE,
        "site.js": SCRIPT,
    }


def compiled(table: FeatureTable, source: Source) -> dict[str, str]:
    """Feature → the SQL that computes it alone; what is no SQL as its declaration tells."""
    return {feature.name: _sql(table, feature, source) for feature in table.features}


def _sql(table: FeatureTable, feature: Feature, source: Source) -> str:
    if table.stored:
        return compile_table(table, source, (feature.name,))
    if isinstance(feature.computation, Derived):
        return pair_sql(feature)
    return f"{feature.computation.text()} /* {feature.digest} */"


def newest_computed(declarations: Declarations, offline: Path) -> dict[str, Computed]:
    """Stored table → what its newest computed file holds, of the tables that have one as they are declared now."""
    found = {}
    for table in declarations.stored:
        files = sorted((offline / table.name).glob("as_of=*.parquet"))
        if files and (said := recorded(files[-1])) and list(said.features) == list(table.names):
            found[table.name] = _computed(files[-1])
    return found


def _computed(path: Path) -> Computed:
    metadata = pq.read_metadata(path)
    as_of = datetime.strptime(path.stem, "as_of=%Y-%m-%dT%H%M%SZ").replace(tzinfo=UTC)
    return Computed(as_of, metadata.num_rows, distributions(path))


def described(table: FeatureTable, feature: Feature) -> dict[str, object]:
    """Everything a person asks of a feature, by name."""
    return {
        "feature": f"{table.name}:{feature.name}",
        "description": feature.description,
        "unit": feature.unit,
        "entity": table.entity.name,
        "weight": table.weight.value,
        "dtype": feature.dtype.value,
        "window_days": feature.over,
        "expectation": "; ".join(expected(e) for e in feature.expect) or f"of type {feature.dtype.value}",
        "owner": feature.owner,
        "needs": ", ".join(sorted(feature.needs)),
        "digest": feature.digest,
        "formula": formula(table, feature),
        "computation": feature.computation.text(),
    }
