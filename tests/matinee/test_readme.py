from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()
]


def test_the_quick_start_begins_with_a_day():
    assert COMMANDS[0] == "matinee day"
    assert len(COMMANDS) > 10


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS[1:])
def test_every_command_of_the_quick_start_runs(a_day, shell, command):
    assert shell(command).stdout.strip()


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target
