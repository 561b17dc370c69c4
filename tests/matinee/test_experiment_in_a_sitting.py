"""`docs/experiment-in-a-sitting.md`, command by command, on the tiny world."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "experiment-in-a-sitting.md").read_text()
BLOCKS = [block.strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
COMMANDS = [block for block in BLOCKS if block.startswith("matinee ")]


def test_the_sitting_takes_five_commands():
    assert len(COMMANDS) == 5
    assert all("\n" not in command for command in COMMANDS)


@pytest.mark.slow
def test_from_an_idea_to_a_verdict_by_the_commands_of_the_page(command, tmp_path):
    told = {block: command(block, IDEAS=str(tmp_path / "ideas")).stdout for block in BLOCKS}
    checked, started, lived, read, stopped = (told[block] for block in COMMANDS)
    assert "nothing wrong" in checked
    assert "plays-alone/plays:" in started
    assert "'weights.diversity': 0.0" in started
    assert len(re.findall(r"^.*2026-01-1[56].*pages", lived, re.MULTILINE)) == 2
    assert "SIMULATED" in lived
    assert "sample ratio" in read
    assert re.search(r"renewal_share", read)
    assert "plays-alone is stopped" in stopped

    again = command("matinee experiments list --json").stdout
    assert [run["state"] for run in json.loads(again) if run["name"] == "plays-alone"] == ["stopped"]
