"""The shipped demonstration experiment, and variations of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.config import Experiment, ExperimentBook, Layer, Parameter
from experiments.live import LiveExperiments, compiled
from experiments.reading import SHIPPED, load

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def pinned(reference):
    """Version 7 of whatever model is asked for."""
    return reference.split("@")[0].split("/")[0] + "/7"


@pytest.fixture(scope="session")
def demo():
    return load(SHIPPED).experiments["homepage-multi-objective"]


@pytest.fixture
def varied(demo):
    """The demonstration experiment with some fields changed, validated again."""
    return lambda **fields: Experiment.model_validate(demo.model_dump() | fields)


@pytest.fixture
def folder(tmp_path):
    """A folder of declarations: the shipped parameters, and `write(name, text)` for more."""
    (tmp_path / "parameters.yaml").write_text((SHIPPED / "parameters.yaml").read_text())

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.fixture(scope="session")
def many(demo):
    """250 experiments in 25 layers, ten slots a layer, each partly rolled out; some target a country."""
    layers = {f"l{i}": Layer(name=f"l{i}", description="a layer") for i in range(25)}
    parameters = {
        f"p{i}": Parameter(
            name=f"p{i}", layer=f"l{i}", kind="number", default=0, bounds=(0, 1), description="x"
        )
        for i in range(25)
    }
    declared = {}
    for i in range(25):
        for j in range(10):
            arms = {
                "control": {"share": 0.3, "parameters": {f"p{i}": 0.1}},
                "treatment": {"share": 0.7, "parameters": {f"p{i}": 0.5}},
            }
            fields = {
                "name": f"e{i}-{j}",
                "layer": f"l{i}",
                "slot": (j / 10, (j + 1) / 10),
                "rollout": 0.5 + 0.05 * j,
                "arms": arms,
                "targeting": {"country": ("NO", "DE")} if j == 3 else {},
            }
            declared[f"e{i}-{j}"] = Experiment.model_validate(demo.model_dump() | fields)
    book = ExperimentBook(layers, parameters, declared)
    return LiveExperiments(experiments=tuple(compiled(book, e, pinned, NOON) for e in declared.values()))


@pytest.fixture(scope="session")
def noon():
    return NOON
