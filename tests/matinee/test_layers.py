from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages() -> set[str]:
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_every_top_level_package_has_a_place_in_the_layers():
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    placed = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    assert packages() == placed


def test_every_package_is_checked_for_layers_for_types_and_is_installed():
    assert packages() == set(PROJECT["tool"]["importlinter"]["root_packages"])
    assert packages() == set(PROJECT["tool"]["mypy"]["packages"])
    installed = set(PROJECT["tool"]["setuptools"]["packages"])
    every = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in packages()
        for path in ROOT.glob(f"{name}/**/__init__.py")
    }
    assert every == installed


def test_nothing_is_called_common_utils_or_helpers():
    named = {path.stem for name in packages() for path in ROOT.glob(f"{name}/**/*.py")}
    assert not named & {"common", "util", "utils", "helpers", "misc"}


def test_no_test_folder_shadows_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))
