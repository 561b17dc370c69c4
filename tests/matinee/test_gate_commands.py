"""What the gate did can be asked of the command line, by people and by programs."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def asked(shell, command):
    return json.loads(shell(f"matinee features {command} --json").stdout)


def test_every_run_of_the_gate_can_be_listed_filtered_and_followed(shell, a_day):
    runs = asked(shell, "gates")
    tables = {run["table"] for run in runs}
    assert {"user_profile", "title_activity"} <= tables
    assert all(run["at"] and len(run["digest"]) == 64 and run["seconds"] > 0 for run in runs)
    of_one = asked(shell, "gates --table user_profile")
    assert of_one == [run for run in runs if run["table"] == "user_profile"]
    assert asked(shell, "gates --table user_profile --failed") == [run for run in of_one if not run["passed"]]
    newest = of_one[-1]["at"]
    assert asked(shell, f"gates --table user_profile --since {newest}") == [
        r for r in of_one if r["at"] >= newest
    ]
    trend = asked(shell, "gates --table user_profile --trend")
    assert {"user_id", "play_count_28d"} <= {column["column"] for column in trend}
    assert all(column["runs"] <= len(of_one) for column in trend)
    assert "user_profile" in shell("matinee features gates").stdout


def test_a_trend_is_of_one_table(shell, a_day):
    assert "--table" in shell("matinee features gates --trend", fails=True).stderr


def test_drift_is_listed_against_what_the_champions_learned_from_the_worst_first(shell, a_day):
    found = asked(shell, "drift")
    tables = {one["feature"].split(":")[0] for one in found}
    assert {"user_profile", "user_activity", "title_profile"} <= tables
    order = ["error", "warning", "info", None]
    places = [(order.index(one["severity"]), -one["psi"]) for one in found]
    assert places == sorted(places)
    assert all("learned from" in one["reference"] for one in found)
    grows = next(one for one in found if one["feature"] == "user_profile:days_member")
    assert grows["median"][1] > grows["median"][0]
    assert grows["severity"] is None  # everyone grows older: declared to say nothing
    only = asked(shell, "drift --table title_profile")
    assert only == [one for one in found if one["feature"].startswith("title_profile:")]


def test_nothing_is_set_aside_of_a_sound_day(shell, a_day):
    assert asked(shell, "quarantine") == []
