"""Views of which an entity's newest rows are kept, which Feast does not know: it is told the newest."""

from __future__ import annotations

import pandas as pd
import pytest
from both_stores import HOUR, USER, now, our_store, view, write
from feast.types import Int64

from feature_repo.record import View, opened

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:ibis.*"
)  # it calls DuckDB 2.0 by old names


def told_of(store):
    return store.get_online_features(["kept:n"], [{"user_id": 1}, {"user_id": 2}]).to_dict()["n"]


def test_of_the_rows_that_a_view_keeps_feast_is_told_the_newest(tmp_path):
    (tmp_path / "ours").mkdir()
    kept = view(tmp_path, "kept", [USER], {"n": Int64}, tags={"keep": "3"})
    store, moment = our_store(tmp_path, [USER, kept]), now()
    ages = [3, 0, 1, 2]
    frame = pd.DataFrame({
        "event_timestamp": [moment - HOUR * age for age in ages], "created_timestamp": [moment] * 4,
        "user_id": [1] * 4, "n": ages,
    })  # fmt: skip
    write("kept", frame)(store)
    for _ in range(3):
        assert told_of(store) == [0, None]
    frame.assign(user_id=2).to_parquet(tmp_path / "kept.parquet", coerce_timestamps="us")
    store.materialize(moment - 5 * HOUR, moment, feature_views=["kept"])
    record = tmp_path / "ours" / "online.duckdb"
    with opened(record, 1.0) as connection:
        held = connection.sql(
            f'SELECT entity_id, "f:n" FROM {View("test", "kept").table} ORDER BY ALL'
        ).fetchall()
    assert held == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
