from __future__ import annotations

import numpy as np
import pytest
from raw_events import NOON
from slow_features import ARTWORKS, TITLES, USERS, RandomEvents, SlowFeatures

from events.sources import SOURCES
from feature_repo.compile import compile_table
from feature_repo.families import declare
from feature_repo.known import known_at

IDS = {"user": USERS, "title": TITLES, "artwork": ARTWORKS}


def computed(warehouse, events, table):
    events.register(warehouse)
    known_at(warehouse, events.source, NOON)
    found = warehouse.sql(compile_table(table, events.source)).to_arrow_table().to_pylist()
    return {row[table.entity.join_key]: row for row in found}


def plain(value):
    """As float32 reads it."""
    return None if value is None else float(np.float32(value))


@pytest.mark.parametrize("seed", [0, 1, 102])
@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_every_stored_feature_agrees_with_going_through_the_events_one_by_one(warehouse, source, seed):
    events = RandomEvents(source, seed)
    for table in declare(source).stored:
        if table.keep > 1:
            continue
        found = computed(warehouse, events, table)
        slow = {i: SlowFeatures(events, table.entity.name, i) for i in IDS[table.entity.name]}
        assert set(found) == {i for i, one in slow.items() if one.exists()}, table.name
        for i, row in found.items():
            for name in table.names:
                expected = plain(slow[i].value(name))
                close = expected if expected is None else pytest.approx(expected, rel=2e-7, abs=1e-6)
                assert row[name] == close, (table.name, name, i)
