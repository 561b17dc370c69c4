from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from events.checks import arrow_schema
from events.lake import RowsRefused
from events.schema import PLAYS
from matinee.pushing import plays_of_lines

PLAY = {
    "play_id": 1, "user_id": 2, "title_id": 3,
    "event_timestamp": "2026-02-05T12:00:00Z", "created_timestamp": "2026-02-05T13:00:30+01:00",
}  # fmt: skip


def line(**change: object) -> str:
    return json.dumps({k: v for k, v in (PLAY | change).items() if v is not ...})


def test_a_line_is_a_play_with_what_it_leaves_out_unknown():
    table = plays_of_lines([line(), "", line(play_id=2, watch_minutes=1.5, completed=True), "\n"])
    assert table.schema == arrow_schema(PLAYS)
    first, second = table.to_pylist()
    assert (first["play_id"], first["watch_minutes"], second["watch_minutes"], second["completed"]) == (1, None, 1.5, True)  # fmt: skip
    assert first["event_timestamp"] == datetime(2026, 2, 5, 12, tzinfo=UTC)
    assert first["created_timestamp"] == datetime(2026, 2, 5, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(("bad", "reason"), [
    pytest.param("{", "the line: Invalid JSON", id="no JSON"),
    pytest.param("[1]", "the line: Input should be an object", id="no object"),
    pytest.param(line(user_id="2"), "user_id: Input should be a valid integer", id="a text for a number"),
    pytest.param(line(user_id=2.5), "user_id: Input should be a valid integer", id="half a user"),
    pytest.param(line(user_id=...), "user_id: Field required", id="nobody's play"),
    pytest.param(line(title=3), "title: Extra inputs are not permitted", id="an unknown column"),
    pytest.param(line(event_timestamp="2026-02-05T12:00:00"), "event_timestamp: Input should have timezone info", id="a moment without a zone"),
    pytest.param(line(created_timestamp=...), "created_timestamp: Field required", id="when it became known is not said"),
])  # fmt: skip
def test_a_line_that_is_no_play_is_named_with_the_reason(bad, reason):
    with pytest.raises(RowsRefused) as refused:
        plays_of_lines([line(), "", bad, line(play_id=2)])
    ((number, said),) = refused.value.refusals
    assert number == 3
    assert said.startswith(reason)
    assert f"line 3: {reason}" in str(refused.value)


def test_every_bad_line_is_named_and_of_very_many_the_first_and_how_many_more():
    with pytest.raises(RowsRefused, match="and 5 more") as refused:
        plays_of_lines(["{}"] * 25)
    assert [number for number, _ in refused.value.refusals] == list(range(1, 26))
