"""The schemas that editors read: what loads is valid, and what is misspelt is refused before it is run."""

import json
from copy import deepcopy
from datetime import date, datetime

import pytest
import yaml
from jsonschema import Draft7Validator

from experiments.generated import write_folder
from experiments.reading import METRICS, SHIPPED, load
from experiments.schemas import modeline, schemas, write_schemas

KINDS = {"parameters.yaml": "parameters", "metrics.yaml": "metrics", "holdouts.yaml": "holdouts"}
NAMED = {
    "name": "variety", "layer": "ranking", "owner": "me", "hypothesis": "x", "start": "2026-03-01", "end": "2026-03-31",
    "slot": [0, 0.5], "segments": ["country"], "effect": 0.02,
    "arms": {
        "control": {"share": 0.5},
        "treatment": {"share": 0.5, "parameters": {"weights.diversity": 0.4, "ranker": "ranker/7", "weights.diversity_window": 5}},
    },
    "metrics": {"primary": "minutes_7d", "guardrails": ["plays_7d", {"metric": "any_play_1d", "margin": 0.1}, {"metric": "plays_1d"}]},
}  # fmt: skip


def as_editors_see(value):
    """YAML 1.2 has no dates: they are text."""
    if isinstance(value, dict):
        return {key: as_editors_see(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_editors_see(one) for one in value]
    return value.isoformat() if isinstance(value, date | datetime) else value


def read(path):
    return as_editors_see(yaml.safe_load(path.read_text()))


@pytest.fixture(scope="module")
def shipped():
    return {name: Draft7Validator(schema) for name, schema in schemas(load(SHIPPED)).items()}


def objections(validator, value):
    return [error.json_path for error in validator.iter_errors(value)]


def test_the_schemas_are_schemas(shipped):
    assert set(shipped) == {"experiment", "parameters", "metrics", "holdouts"}
    for validator in shipped.values():
        Draft7Validator.check_schema(validator.schema)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_names_its_schema(shipped, path):
    kind = KINDS.get(path.name, "experiment")
    assert objections(shipped[kind], read(path)) == []
    first = path.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema=schemas/{kind}.schema.json"


def test_the_schemas_that_are_shipped_are_those_of_what_is_shipped():
    for name, schema in schemas(load(SHIPPED)).items():
        assert json.loads((SHIPPED / "schemas" / f"{name}.schema.json").read_text()) == schema


def test_what_names_metrics_is_valid_as_it_loads(shipped, folder):
    folder(METRICS, (SHIPPED / METRICS).read_text())
    dated = {key: date.fromisoformat(NAMED[key]) for key in ("start", "end")}
    book = load(folder("variety.yaml", yaml.safe_dump({**NAMED, **dated})))
    assert book.experiments["variety"].metrics.primary.name == "minutes_7d"
    assert objections(shipped["experiment"], NAMED) == []


WRONG = [
    pytest.param("metrics.primary", "minuets_7d", id="a metric that is not defined"),
    pytest.param("metrics.guardrails", ["plays_7"], id="a guardrail that is not defined"),
    pytest.param("metrics.guardrails", [{"metric": "plays_7", "margin": 0.1}], id="the same with a margin"),
    pytest.param(
        "metrics.guardrails", [{"metric": "plays_7d", "marign": 0.1}], id="a field beside the metric"
    ),
    pytest.param("metrics.guardrails", [], id="no guardrail"),
    pytest.param("layer", "rankin", id="a layer that is not there"),
    pytest.param("layer", "artwork", id="parameters of another layer"),
    pytest.param("arms.treatment.parameters", {"weights.diversty": 0.4}, id="a parameter that is not there"),
    pytest.param("arms.treatment.parameters", {"weights.diversity": 1.5}, id="out of bounds"),
    pytest.param("arms.treatment.parameters", {"weights.diversity_window": 5.5}, id="not whole"),
    pytest.param("arms.treatment.parameters", {"ranker": "champion"}, id="no model version"),
    pytest.param("arms.treatment.parameters", {"artwork_policy": "thompson"}, id="a choice of another layer"),
    pytest.param("slot", [0, 0.5, 1], id="a slot of three"),
    pytest.param("effect", "2 %", id="a share in words"),
    pytest.param("ownr", "me", id="a field that is not there"),
    pytest.param("owner", None, id="a field that is left out"),
    pytest.param("start", "next week", id="no date"),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_what_is_wrong_is_refused(shipped, path, value):
    document = deepcopy(NAMED)
    *above, last = path.split(".")
    place = document
    for key in above:
        place = place[key]
    place[last] = value
    if value is None:
        del place[last]
    assert objections(shipped["experiment"], document) != []


def test_a_choice_is_one_of_its_choices_in_its_layer(shipped):
    def declared(policy):
        arms = {
            "control": {"share": 0.5},
            "treatment": {"share": 0.5, "parameters": {"artwork_policy": policy}},
        }
        return {**NAMED, "layer": "artwork", "arms": arms}

    assert objections(shipped["experiment"], declared("uniform")) == []
    assert objections(shipped["experiment"], declared("unifrom")) != []


def test_a_metric_without_a_margin_needs_one_as_a_guardrail(folder):
    folder(METRICS, "metrics:\n  visits: {kind: mean, of: {source: plays}, window_days: 7}\n")
    validator = Draft7Validator(schemas(load(folder("unused.txt", "")))["experiment"])

    def with_guardrail(guardrail):
        return {**NAMED, "metrics": {"primary": "visits", "guardrails": [guardrail]}}

    assert objections(validator, with_guardrail("visits")) != []
    assert objections(validator, with_guardrail({"metric": "visits"})) != []
    assert objections(validator, with_guardrail({"metric": "visits", "margin": 0.1})) == []
    assert objections(validator, NAMED) != [], "of this folder, not of the shipped one"


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("metrics", {"metrics": {"m": {"kind": "mean", "of": {"source": "play"}, "window_days": 7}}}),
        ("metrics", {"metrics": {"m": {"kind": "mean", "of": {"source": "plays"}, "window_day": 7}}}),
        ("metrics", {"metrics": {"M 1": {"kind": "mean", "of": {"source": "plays"}, "window_days": 7}}}),
        ("metrics", {"metrics": {}, "more": {}}),
        ("parameters", {"layers": {}, "parameters": {"p": {"layer": "rankin", "kind": "number", "default": 0, "description": "x"}}}),
        ("parameters", {"parameters": {}}),
        ("holdouts", {"holdouts": {"q1": {"held_out": 0.6, "start": "2026-01-01", "end": "2026-04-01"}}}),
    ],
)  # fmt: skip
def test_the_other_files_are_checked_too(shipped, kind, document):
    assert objections(shipped[kind], document) != []


def test_250_generated_declarations_are_valid(tmp_path):
    write_folder(tmp_path)
    book = load(tmp_path)
    validator = Draft7Validator(schemas(book)["experiment"])
    for name in book.experiments:
        assert objections(validator, read(tmp_path / f"{name}.yaml")) == []


def test_schemas_are_written_beside_the_files_and_named_once_they_are(tmp_path):
    write_folder(tmp_path, experiments=2, layers=1)
    assert modeline(tmp_path) == ""
    written = write_schemas(load(tmp_path), tmp_path)
    assert {path.name for path in written} == {path.name for path in (tmp_path / "schemas").iterdir()}
    assert modeline(tmp_path) == "# yaml-language-server: $schema=schemas/experiment.schema.json\n"
    assert (tmp_path / modeline(tmp_path).split("=")[1].strip()).is_file()
    assert len(load(tmp_path).experiments) == 2, "schemas are no declarations"
