"""The plan of a day: what follows from a change, and that the day does just that."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
from pydantic import ValidationError

from events.sources import WORLD
from feature_repo.compute import plan, recorded
from feature_repo.declarations import Declarations
from feature_repo.families import declare
from matinee.context import Day
from matinee.planning import State, Version, plan_day
from matinee.recipes import recipes
from matinee.settings import Settings
from matinee.workspace import Workspace
from validations.expectations import Between

DECLARED = declare(WORLD)
MODELS = recipes(WORLD, Settings())
AS_OF = WORLD.latest
AS_OFS = (AS_OF - WORLD.period, AS_OF)


def changed(table, feature, **more) -> Declarations:
    """The declarations with one feature declared otherwise, by default computed over another window."""
    old = DECLARED.table(table)
    new = replace(old[feature], **(more or {"over": 1000}))
    features = tuple(new if f.name == feature else f for f in old.features)
    tables = (replace(t, features=features) if t.name == table else t for t in DECLARED.tables)
    return replace(DECLARED, tables=tuple(tables))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Files that say of themselves what computing DECLARED would make them say."""
    written = {s.path: s.recorded for s in plan(DECLARED, AS_OFS, lambda _: "events", tmp_path)}
    monkeypatch.setattr("feature_repo.planning.recorded", written.get)
    return tmp_path


def tables_of(declared, offline):
    return plan(declared, AS_OFS, lambda _: "events", offline)


def state_after_a_day(offline, **more) -> State:
    """Everything DECLARED asks for is there: models by their inputs, a Bento of each service, a generation."""
    held = {(s.table.name, s.as_of): s.recorded for s in tables_of(DECLARED, offline)}
    versions, by_inputs = {}, {}
    for recipe in MODELS:
        behind = versions.get(recipe.behind)
        whole = recipe.after(behind.digest) if behind else recipe
        inputs = whole.inputs(DECLARED, AS_OFS, lambda t, m: held[t, m])
        version = Version(
            f"{recipe.model}/1", f"digest of {recipe.model}", "5e75", AS_OF.isoformat(), champion=True
        )
        versions[recipe.model] = by_inputs[recipe.model, inputs] = version
    inside = {"homepage": ("retriever/1", "ranker/1", "artwork/1")} | {
        name: (f"{name}/1",) for name in ("retriever", "ranker", "artwork")
    }
    there = State(
        passed=set(held), taken={t.name for t in DECLARED.stored}, generation="g1", newest=versions,
        trained=lambda model, inputs: by_inputs.get((model, inputs)),
        bentos={name: (f"{name}:b1", frozenset(refs)) for name, refs in inside.items()}, asked=frozenset(),
    )  # fmt: skip
    return replace(there, **more)


def planned(declared, offline, models=MODELS, **state):
    return plan_day(
        declared, AS_OFS, tables_of(declared, offline), state_after_a_day(offline, **state), models
    )


def running(made, part):
    return [str(step) for step in getattr(made, part) if step.runs]


def subjects(made, part):
    return {step.subject for step in getattr(made, part) if step.runs}


def test_after_a_day_everything_stands_and_says_why(offline):
    made = planned(DECLARED, offline)
    assert not [str(step) for step in made.steps if step.runs]
    assert all(step.reason for step in made.steps)
    assert "keep ranker/1" in map(str, made.models)
    assert "keep homepage:b1" in map(str, made.bentos)


def test_a_changed_feature_takes_along_its_table_and_the_models_that_read_it_and_nothing_else(offline):
    declared = changed("user_activity", "renewal_count")
    before, after = (d.table("user_activity")["renewal_count"].digest for d in (DECLARED, declared))
    why = f"user_activity:renewal_count changed: {before[:4]}→{after[:4]}"
    made = planned(declared, offline)
    count = len(DECLARED.table("user_activity").features)
    assert running(made, "tables") == [
        f"compute user_activity as of {day}T000000Z (1 of {count} features)"
        for day in ("2026-02-04", "2026-02-05")
    ]
    assert running(made, "gate") == [
        f"check user_activity as of {day}T000000Z" for day in ("2026-02-04", "2026-02-05")
    ]
    assert running(made, "online") == ["materialize user_activity", "publish a generation"]
    assert running(made, "models") == [
        "make training set of ranker",
        "train ranker",
        "promote the new ranker",
    ]
    assert running(made, "bentos") == ["build a Bento of homepage", "build a Bento of ranker"]
    assert {step.reason for step in made.models if step.runs} == {why, "it is the newest"}
    assert {step.reason for step in made.bentos if step.runs} == {"ranker is trained anew"}


@pytest.mark.parametrize(("table", "feature", "models"), [
    ("artwork_profile", "warmth", {"creative_quality", "artwork"}),
    ("user_taste", "in_drama_share_28d", {"retriever", "ranker", "artwork"}),
    ("title_activity", "is_simulated", {"ranker"}),
    ("title_profile", "release_year", {"retriever", "ranker"}),
    ("recent_plays", "title_id", {"retriever", "ranker"}),
])  # fmt: skip
def test_a_model_is_trained_again_only_when_it_reads_the_feature_or_stands_behind_one_that_does(
    offline, table, feature, models
):
    assert subjects(planned(changed(table, feature), offline), "models") == models


def test_a_model_behind_one_that_is_trained_anew_says_so(offline):
    made = planned(changed("recent_plays", "title_id"), offline)
    reasons = {str(step): step.reason for step in made.models}
    assert reasons["train ranker"] == "it stands behind retriever, which is trained anew"


def test_words_change_nothing(offline):
    declared = changed("user_activity", "renewal_count", description="said otherwise", owner="x", unit="y")
    assert not [step for step in planned(declared, offline).steps if step.runs]


def test_other_events_train_every_model_again(offline):
    later = plan(DECLARED, AS_OFS, lambda _: "later", offline)
    made = plan_day(DECLARED, AS_OFS, later, state_after_a_day(offline), MODELS)
    assert subjects(made, "models") == {"retriever", "ranker", "creative_quality", "artwork"}
    assert all("events known by then" in step.reason for step in made.tables)


def test_a_feature_taken_out_writes_its_table_again_and_trains_what_read_it(offline):
    old = DECLARED.table("user_activity")
    slim = replace(old, features=tuple(f for f in old.features if f.name != "renewal_count"))
    services = tuple(
        replace(s, tables=tuple(slim if t is old else t for t in s.tables)) for s in DECLARED.services
    )
    declared = replace(
        DECLARED, services=services, tables=tuple(slim if t is old else t for t in DECLARED.tables)
    )
    made = planned(declared, offline)
    assert subjects(made, "models") == {"ranker"}
    assert not [step for step in made.tables if step.compute and step.runs]


def test_other_settings_train_a_model_and_say_so(offline):
    made = planned(DECLARED, offline, models=recipes(WORLD, Settings(seed=1)))
    reasons = {str(step): step.reason for step in made.models}
    assert reasons["train retriever"] == "retriever/1 was trained otherwise"
    assert not [step for step in (*made.tables, *made.gate, *made.online) if step.runs]


def test_other_settings_of_the_ranker_train_the_ranker_alone(offline):
    made = planned(DECLARED, offline, models=recipes(WORLD, Settings(ranker_settings={"shadow_weight": 3})))
    reasons = {str(step): step.reason for step in made.models if step.runs}
    assert set(reasons) == {"make training set of ranker", "train ranker", "promote the new ranker"}
    assert reasons["train ranker"] == "ranker/1 was trained otherwise"


@pytest.mark.parametrize("changes", [{"halvings": 3}, {"shadow_weight": -1}, {"architecture": "wide"}])
def test_settings_that_no_ranker_has_are_refused_when_they_are_read(changes, monkeypatch):
    (name,) = changes
    monkeypatch.setenv("MATINEE_RANKER_SETTINGS", json.dumps(changes))
    with pytest.raises(ValidationError, match=f"ranker_settings[\\s\\S]*{name}"):
        Settings()


def test_a_table_that_has_not_passed_or_was_not_taken_in_is_done_alone(offline):
    missing = ("user_taste", AS_OF)
    passed = {key for key in state_after_a_day(offline).passed if key != missing}
    made = planned(
        DECLARED, offline, passed=passed, taken=frozenset({t.name for t in DECLARED.stored} - {"user_taste"})
    )
    assert running(made, "gate") == ["check user_taste as of 2026-02-05T000000Z"]
    assert running(made, "online") == ["materialize user_taste", "publish a generation"]


def test_a_version_that_is_not_champion_is_promoted_without_training(offline):
    trained = state_after_a_day(offline).trained

    def demoted(model, inputs):
        version = trained(model, inputs)
        return version and replace(version, champion=model != "ranker")

    assert running(planned(DECLARED, offline, trained=demoted), "models") == ["promote ranker/1"]


def test_a_bento_lacks_what_a_live_arm_asks_for(offline):
    made = planned(DECLARED, offline, asked=frozenset({"ranker/7"}))
    assert running(made, "bentos") == ["build a Bento of homepage", "build a Bento of ranker"]
    assert made.bentos[0].reason == "homepage:b1 lacks ranker/7"


def test_a_first_day_says_that_there_is_nothing_yet(offline):
    made = planned(DECLARED, offline, newest={}, trained=lambda *_: None, generation=None, bentos={})
    assert {s.reason for s in made.models if str(s).startswith("train")} == {"there is no version of it yet"}
    assert made.online[-1].reason == "nothing is published yet"
    assert {step.reason for step in made.bentos} == {"none is built yet"}


# --- on a workspace ------------------------------------------------------------------------------------


class Redeclared(Workspace):
    """A workspace whose source declares something else."""

    declared: Declarations

    @property
    def declarations(self) -> Declarations:
        return self.declared


def redeclared(day: Day, declared: Declarations, root=None) -> Day:
    workspace = Redeclared(root or day.workspace.root, day.workspace.source, day.workspace.registry_url)
    object.__setattr__(workspace, "declared", declared)
    return replace(day, workspace=workspace)


def contents(folder):
    """Every file with its bytes, less what SQLite keeps beside an open database."""
    beside = (".db-wal", ".db-shm")
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.endswith(beside)}


@pytest.mark.slow
def test_planning_runs_nothing_and_writes_nothing(opened_day):
    from matinee.recorded import plan_of

    before = contents(opened_day.workspace.root)
    first = plan_of(redeclared(opened_day, changed("user_activity", "renewal_count")))
    again = plan_of(redeclared(opened_day, changed("user_activity", "renewal_count")))
    assert [(str(s), s.reason) for s in first.steps] == [(str(s), s.reason) for s in again.steps]
    assert any(step.runs for step in first.steps)
    assert contents(opened_day.workspace.root) == before


@pytest.mark.slow
def test_a_changed_expectation_alone_runs_only_the_gate_again(opened_day):
    from matinee.recorded import plan_of

    wider = redeclared(opened_day, changed("user_activity", "renewal_count", expect=(Between(0, 10**6),)))
    running_ = {str(step).split(" as of")[0] for step in plan_of(wider).steps if step.runs}
    stood = {str(step).split(" as of")[0] for step in plan_of(opened_day).steps if step.runs}
    assert running_ - stood == {"check user_activity"}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The given NumPy array is not writable:UserWarning"
)  # labels are only read
def test_the_day_does_what_its_plan_says(opened_day, tmp_path):
    from matinee.day import compute_features, publish, train_ranker, train_retriever, validate
    from matinee.progress import Stage, Stages
    from matinee.recorded import plan_of
    from matinee.session import console

    root = tmp_path / "workspace"
    shutil.copytree(opened_day.workspace.root, root, ignore=shutil.ignore_patterns("bentos", "versions"))
    day = redeclared(opened_day, changed("user_activity", "renewal_count"), root)
    stage = partial(Stage, stages=Stages(console))
    url = f"sqlite:///{root / 'registry.db'}"
    with replace(day.workspace, registry_url=url).registry() as registry:
        day = replace(day, registry=registry)
        made = plan_of(day)
        before = {step.path: step.path.read_bytes() for step in made.tables}
        compute_features(day, stage("compute"))
        assert {p for p, held in before.items() if p.read_bytes() != held} == {
            s.path for s in made.tables if s.runs
        }
        assert all(recorded(step.path) == step.recorded for step in made.tables)
        reports = validate(day, stage("gate"))
        assert {r.table for r in reports} == {s.subject for s in made.gate if s.runs}
        assert len(reports) == len([s for s in made.gate if s.runs])
        publish(day, stage("publish"))
        retriever = train_retriever(day, stage("retriever"))
        ranker = train_ranker(day, stage("ranker"), retriever.ref)
        newest = {model.name: model.latest for model in registry.models()}
        assert (f"keep {retriever.ref}" in map(str, made.models), newest["ranker"]) == (True, ranker.number)
        after = plan_of(day)
        assert not [str(s) for s in (*after.tables, *after.gate, *after.online) if s.runs]
        assert running(after, "models") == [f"promote {ranker.ref}"]
