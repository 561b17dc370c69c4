"""`docs/experiment-in-a-sitting.md`, command by command, on the tiny world."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "experiment-in-a-sitting.md").read_text()
BLOCKS = [block.strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
COMMANDS = [block for block in BLOCKS if block.startswith("matinee ")]


def test_it_takes_five_commands_to_a_read_out_and_one_to_decide():
    assert [command.split()[1:3] for command in COMMANDS] == [
        ["experiments", "scope"],
        ["experiments", "check"],
        ["experiments", "start"],
        ["simulate", "--days"],
        ["experiments", "readout"],
        ["experiments", "roll-back"],
    ]
    assert all("\n" not in command for command in COMMANDS)


@pytest.mark.slow
def test_from_an_idea_to_a_verdict_by_the_commands_of_the_page(command, tmp_path):
    told = {block: command(block, IDEAS=str(tmp_path / "ideas")).stdout for block in BLOCKS}
    scoped, checked, started, lived, read, ended = (told[block] for block in COMMANDS)
    assert re.search(r"[\d,]+ units find \+10.00% in plays_1d", scoped)
    assert "nothing wrong" in checked
    assert "plays-alone/treatment:" in started
    assert "'weights.diversity': 0.0" in started
    assert len(re.findall(r"^.*2026-01-1[567].*pages", lived, re.MULTILINE)) == 3
    assert "SIMULATED" in lived
    assert "sample ratio" in read
    assert "minutes_1d" in read
    assert "plays-alone" in ended

    again = command("matinee experiments list --json").stdout
    assert [run["state"] for run in json.loads(again) if run["name"] == "plays-alone"] == ["killed"]
