"""Compiled SQL as text that a reviewer reads in the diff, kept under `sql/`.

Run this file to write it anew: `python tests/feature_repo/sql_snapshots.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from events.sources import SOURCES, Source
from feature_repo.compile import compile_table, pair_sql
from feature_repo.declarations import Aggregated, Derived, Feature, FeatureTable
from feature_repo.families import declare
from feature_repo.known import statements

FOLDER = Path(__file__).parent / "sql"
AS_OF = datetime(2026, 2, 5, tzinfo=UTC)
SLICES = ("in", "at", "on", "spoken", "from")


def snapshots() -> dict[str, str]:
    """File name → text: all of the first source, and of the others what the first does not show."""
    found: dict[str, str] = {}
    shown: set[str] = set()
    for source in SOURCES.values():
        for table in declare(source).tables:
            chosen = representative(table, set() if source.name == "world" else shown)
            shown |= {trait for feature in chosen for trait in traits(feature)}
            if chosen:
                found[f"{source.name}.{table.name}.sql"] = _text(table, source, chosen)
        found[f"{source.name}.known.sql"] = _known(source)
    return found


def representative(table: FeatureTable, shown: Iterable[str] = ()) -> list[Feature]:
    """Features, in declared order, that each show something which none before them shows."""
    if table.keep > 1:
        return list(table.features) if not set(shown) else []
    seen, chosen = set(shown), []
    for feature in table.features:
        if not traits(feature) <= seen:
            chosen.append(feature)
            seen |= traits(feature)
    return chosen


def traits(feature: Feature) -> set[str]:
    """The shape of the computation, its relation, window, kind of slice, empty value, type."""
    computation = feature.computation
    shape = re.sub(r"\w+:\w+", "ref", computation.text().split(" empty=")[0])
    shape = re.sub(r"[0-9.]+", "n", re.sub(r'"[^"]*"', "name", shape))
    found = {f"shape {shape}", f"type {feature.dtype}"}
    if isinstance(computation, Aggregated):
        found |= {f"relation {computation.relation}", f"window {feature.over}", f"empty {computation.empty}"}
        found |= {
            f"slice {kind} {computation.relation}"
            for kind in SLICES
            if re.search(rf"d_{kind}_", feature.name)
        }
    if isinstance(computation, Derived) and len(shape) < 200:
        form = re.sub(r"_(in|spoken|on|at|from)_\w+$", "", feature.name)
        found.add(f"derived {re.sub(r'[0-9]+', 'n', form)}")
    return found


def _text(table: FeatureTable, source: Source, chosen: list[Feature]) -> str:
    count = f"-- {source.name} {table.name}: {len(chosen)} of {len(table.features)} features"
    if table.stored:
        return f"{count}\n{compile_table(table, source, [f.name for f in chosen])}\n"
    return "\n".join([count, *_at_request(chosen)]) + "\n"


def _at_request(chosen: list[Feature]) -> Iterator[str]:
    for feature in chosen:
        is_sql = isinstance(feature.computation, Derived)
        yield f"{pair_sql(feature)}," if is_sql else f"-- {feature.computation.text()} /* {feature.digest} */"


def _known(source: Source) -> str:
    made = (f"-- {name}\n{sql.strip()};\n" for name, sql in statements(source, AS_OF))
    return f"-- {source.name}: what is known as of {AS_OF:%Y-%m-%d}\n\n" + "\n".join(made)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    texts = snapshots()
    for name, text in texts.items():
        (FOLDER / name).write_text(text)
    for old in set(FOLDER.glob("*.sql")) - {FOLDER / name for name in texts}:
        old.unlink()
