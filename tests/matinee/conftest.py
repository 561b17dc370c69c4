from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """A small world, in workspaces of this session only."""
    binaries = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "MATINEE_WORKSPACES": str(tmp_path_factory.mktemp("workspaces")),
        "MATINEE_WORLD": "tiny",
        "MATINEE_THREADS": "2",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def shell(environment) -> Run:
    """Run a command as a user would; its output in the failure if it fails."""

    def run(command: str, *, fails: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env=environment | more, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def untouched_day(shell, tmp_path_factory) -> Path:
    """The workspace of the world after one `matinee day`, which the first to ask runs for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "one-day"
    with FileLock(f"{made}.lock"):
        if not (made / "done").exists():
            shell("matinee day", MATINEE_WORKSPACES=str(made))
            (made / "done").touch()
    return made / "world"


@pytest.fixture(scope="session")
def a_day(untouched_day, environment) -> Path:
    """A copy of it, for all that only reads and for what may be seen by the tests after it."""
    mine = Path(environment["MATINEE_WORKSPACES"]) / "world"
    shutil.copytree(untouched_day, mine, dirs_exist_ok=True)  # a command may have made the folder
    return mine


@pytest.fixture
def opened_day(a_day, environment, monkeypatch):
    """The same workspace, opened in this process."""
    from matinee.session import opened

    for name in ("MATINEE_WORKSPACES", "MATINEE_WORLD", "MATINEE_THREADS"):
        monkeypatch.setenv(name, environment[name])
    with opened("world") as day:
        yield day


@pytest.fixture(scope="module")
def workspaces(untouched_day, tmp_path_factory):
    """A copy of a module's own: what it does to it is no other module's, and nobody's before."""
    copy = tmp_path_factory.mktemp("copied")
    shutil.copytree(untouched_day, copy / untouched_day.name)
    return copy


@pytest.fixture
def copied_day(workspaces, environment, monkeypatch):
    """The copy, opened in this process."""
    from matinee.session import opened

    for name in ("MATINEE_WORLD", "MATINEE_THREADS"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("MATINEE_WORKSPACES", str(workspaces))
    with opened("world") as day:
        yield day


@pytest.fixture
def command(shell, workspaces) -> Run:
    """Run a command on the copy."""
    return partial(shell, MATINEE_WORKSPACES=str(workspaces))
