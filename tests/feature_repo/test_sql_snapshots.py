from __future__ import annotations

import difflib
import re

import pytest
from sql_snapshots import FOLDER, representative, snapshots, traits

from events.sources import SOURCES
from feature_repo.families import declare

TEXTS = snapshots()
REFRESH = "python tests/feature_repo/sql_snapshots.py"


@pytest.mark.parametrize("name", TEXTS)
def test_compiled_sql_is_what_a_reviewer_has_read(name):
    kept = (FOLDER / name).read_text() if (FOLDER / name).exists() else ""
    lines = (kept.splitlines(), TEXTS[name].splitlines())
    diff = "\n".join(difflib.unified_diff(*lines, f"{name} as reviewed", f"{name} now", lineterm="", n=2))
    known = " Raise COMPUTE_VERSION in feature_repo/declarations.py unless all rows stay as they were: digests do not cover it."
    assert kept == TEXTS[name], (
        f"compiled SQL changed.{known if 'known' in name else ''} If it is meant, run `{REFRESH}` and commit.\n{diff}"
    )


def test_no_snapshot_is_left_of_what_is_gone():
    assert {path.name for path in FOLDER.iterdir()} == set(TEXTS)


def test_every_shape_window_slice_and_empty_value_of_a_source_is_shown():
    for table in declare(SOURCES["world"]).tables:
        shown = {trait for feature in representative(table) for trait in traits(feature)}
        assert {trait for feature in table.features for trait in traits(feature)} == shown, table.name
        text = TEXTS[f"world.{table.name}.sql"]
        assert all(feature.digest in text for feature in representative(table))


def test_the_snapshots_show_each_kind_of_aggregate_and_both_empty_values():
    text = "".join(TEXTS.values())
    for kind in ("COUNT(*)", "SUM(", "AVG(", "COUNT(DISTINCT", "MIN(", "MAX(", "SQRT(", "coalesce(", "NULLIF(", "row_number()", "abs("):  # fmt: skip
        assert kind in text, kind
    assert re.search(r"^    \"watch_share_mean_\w+\",$", text, re.MULTILINE)  # null where nothing was watched
