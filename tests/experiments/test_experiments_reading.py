"""Declarations: what is accepted, and what is said of the rest."""

import re
from datetime import UTC, datetime

import pytest

from experiments.checking import check
from experiments.config import Parameter
from experiments.generated import write_folder
from experiments.reading import SHIPPED, InvalidConfig, load
from matinee.programme import declared_overlap

DEMO = (SHIPPED / "homepage-multi-objective.yaml").read_text()


def line_of(text, fragment):
    """The number, from 1, of the first line that holds `fragment`."""
    return next(i for i, line in enumerate(text.splitlines(), 1) if fragment in line)


def test_the_shipped_declarations_fit_each_other():
    assert check(load(SHIPPED), {"ranker@champion"}) == ()


def test_the_shipped_experiment_has_two_guardrails_and_compares_one_ranker(demo):
    assert [g.name for g in demo.metrics.guardrails] == ["plays_per_member", "renewal_share"]
    assert {arm.parameters["ranker"] for arm in demo.arms.values()} == {"ranker@champion"}
    assert demo.treatments == ("treatment",)


@pytest.mark.parametrize(
    ("old", "new", "place", "field", "said"),
    [
        pytest.param("owner: homepage", "ownr: homepage", "ownr", "ownr", "Did you mean 'owner'?", id="misspelt"),
        pytest.param("  control:\n    share: 0.5", "  control:\n    share: 0.6", "arms:", "arms", "sum to 1.1", id="shares"),
        pytest.param("margin: 0.05", "margin: 5", "margin: 5", "metrics.guardrails.1.margin", "less than 1", id="margin"),
        pytest.param("end: 2100-01-01", "end: 2019-01-01", "end:", "end", "not after its start", id="dates"),
        pytest.param("owner: homepage\n", "", "name:", "owner", "is missing", id="missing"),
        pytest.param("unit: user_id", "unit: cookie", "unit:", "unit", "user_id", id="unit"),
        pytest.param("  control:\n", "  base:\n", "name:", "control", "control 'control' is no arm", id="control"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_and_field(folder, old, new, place, field, said):
    assert old in DEMO
    text = DEMO.replace(old, new, 1)
    with pytest.raises(InvalidConfig) as invalid:
        load(folder("broken.yaml", text))
    (problem,) = (p for p in invalid.value.problems if p.field == field)
    assert (problem.file, problem.line) == ("broken.yaml", line_of(text, place))
    assert said in problem.message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        pytest.param("name: a\nname: b\n", 2, "'name' is given twice", id="a key twice"),
        pytest.param("name: [a\n", 2, "is no YAML", id="not closed"),
        pytest.param("", 1, "is empty", id="empty"),
        pytest.param("arms: &x\n  - *x\n", 1, "holds itself", id="recursive alias"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused_with_its_line(folder, text, line, said):
    with pytest.raises(InvalidConfig) as invalid:
        load(folder("broken.yaml", text))
    (problem,) = invalid.value.problems
    assert problem.line == line
    assert said in problem.message


def test_every_problem_of_a_folder_is_reported_at_once(folder):
    folder("a.yaml", DEMO.replace("owner: homepage\n", ""))
    with pytest.raises(InvalidConfig) as invalid:
        load(folder("b.yaml", DEMO.replace("unit: user_id", "unit: cookie")))
    assert {problem.file for problem in invalid.value.problems} == {"a.yaml", "b.yaml"}


def test_two_files_cannot_declare_one_name(folder):
    folder("a.yaml", DEMO)
    with pytest.raises(InvalidConfig, match=r"b\.yaml:2: name: .* is declared in a\.yaml too"):
        load(folder("b.yaml", DEMO))


def test_a_date_is_its_first_moment_in_utc(demo):
    assert demo.start == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("old", "new", "field", "said"),
    [
        pytest.param("weights.retention: 0.0", "weights.retension: 0.0", "arms.control.parameters.weights.retension",
                     "Did you mean 'weights.retention'?", id="unknown parameter"),
        pytest.param("weights.diversity: 0.2", "weights.diversity: 1.2", "arms.treatment.parameters.weights.diversity",
                     "a number from 0 to 1", id="out of bounds"),
        pytest.param("ranker: ranker@champion\n", "ranker: best\n", "arms.control.parameters.ranker", "'ranker/7'",
                     id="no reference"),
        pytest.param("ranker: ranker@champion\n", "ranker: ranker@champoin\n", "arms.control.parameters.ranker",
                     "Did you mean 'ranker@champion'?", id="unknown version"),
        pytest.param("ranker: ranker@champion\n", "artwork_policy: uniform\n", "arms.control.parameters.artwork_policy",
                     "belongs to layer 'artwork'", id="another layer's"),
        pytest.param("layer: ranking", "layer: rankings", "layer", "Did you mean 'ranking'?", id="unknown layer"),
    ],
)  # fmt: skip
def test_check_names_the_field_and_what_would_be_right(folder, old, new, field, said):
    assert old in DEMO
    text = DEMO.replace(old, new, 1)
    problems = [p for p in check(load(folder("broken.yaml", text)), {"ranker@champion"}) if p.field == field]
    assert len(problems) == 1
    assert said in problems[0].message
    assert problems[0].line == line_of(text, new.strip())


def test_known_versions_may_be_asked_by_a_function(folder):
    book = load(folder("a.yaml", DEMO))
    assert check(book, lambda reference: reference == "ranker@champion") == ()
    assert len(check(book, lambda reference: False)) == 2  # one for each arm


def other(**replaced):
    text = DEMO.replace("name: homepage-multi-objective", "name: other")
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return text


DATES = ("start: 2020-01-01\nend: 2100-01-01", "start: 2020-01-01\nend: 2030-01-01")
SLOT = ("unit: user_id", "unit: user_id\nslot: [0, 0.5]")


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        pytest.param({}, {}, True, id="same units at the same time"),
        pytest.param({"d": DATES}, {"d": ("start: 2020-01-01", "start: 2030-01-01")}, False, id="one after the other"),
        pytest.param({"d": ("start: 2020-01-01", "start: 2030-01-01")}, {"d": DATES}, False, id="one before the other"),
        pytest.param({"d": DATES}, {"d": ("start: 2020-01-01", "start: 2029-12-31")}, True, id="a day in common"),
        pytest.param({"s": SLOT}, {"s": ("unit: user_id", "unit: user_id\nslot: [0.5, 1]")}, False, id="side by side"),
        pytest.param({"s": ("unit: user_id", "unit: user_id\nslot: [0.5, 1]")}, {"s": SLOT}, False, id="the other way round"),
        pytest.param({"s": SLOT}, {"s": ("unit: user_id", "unit: user_id\nslot: [0.4999, 1]")}, True, id="a bucket in common"),
        pytest.param({"t": ("unit: user_id", "unit: user_id\ntargeting: {country: [NO]}")},
                     {"t": ("unit: user_id", "unit: user_id\ntargeting: {country: [DE]}")}, False, id="other countries"),
        pytest.param({"t": ("unit: user_id", "unit: user_id\ntargeting: {country: [NO]}")},
                     {"t": ("unit: user_id", "unit: user_id\ntargeting: {device: [tv]}")}, True, id="other attributes"),
    ],
)  # fmt: skip
def test_two_experiments_of_a_layer_that_could_share_a_unit_are_both_named(folder, first, second, clash):
    folder("a.yaml", other(**first))
    problems = check(load(folder("b.yaml", other(**second).replace("name: other", "name: second"))))
    assert len(problems) == int(clash)
    for problem in problems:
        assert re.search(r"'other' and 'second' both set ranker, weights", problem.message)


def test_experiments_of_two_layers_never_conflict(folder):
    without_parameters = re.sub(r"    parameters:\n(      .*\n)+", "", DEMO)
    folder("a.yaml", DEMO)
    text = without_parameters.replace("layer: ranking", "layer: artwork").replace(
        "name: homepage", "name: image"
    )
    assert check(load(folder("b.yaml", text))) == ()


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        ("model", "ranker/7", True),
        ("model", "ranker@champion", True),
        ("model", "ranker/0", False),
        ("model", "ranker", False),
        ("model", 7, False),
        ("number", 0, True),
        ("number", 2.0, True),
        ("number", 2.1, False),
        ("number", "1", False),
        ("number", True, False),
        ("number", float("nan"), False),
        ("number", 1.5, True),
        ("whole", 2, True),
        ("whole", 1.0, True),
        ("whole", 1.5, False),
        ("whole", 3, False),
        ("whole", True, False),
        ("whole", float("nan"), False),
        ("whole", float("inf"), False),
        ("choice", "a", True),
        ("choice", "c", False),
    ],
)
def test_a_parameter_takes_only_values_of_its_kind(kind, value, allowed):
    default = {"model": "m@x", "number": 1, "whole": 1, "choice": "a"}[kind]
    parameter = Parameter(
        name="p", layer="l", kind=kind, default=default, bounds=(0, 2), choices=("a", "b"), description="x"
    )
    assert (parameter.objection(value) is None) == allowed


def test_250_declarations_are_read_and_checked_in_a_moment(folder):
    for i in range(250):
        low, high = (i % 10) / 10, (i % 10 + 1) / 10
        text = DEMO.replace("name: homepage-multi-objective", f"name: e{i}").replace(
            "unit: user_id", f"unit: user_id\nslot: [{low}, {high}]"
        )
        base = folder(f"e{i}.yaml", text)
    book = load(base)
    assert len(book.experiments) == 250
    # 25 experiments claim each of ten slots: 25 · 24 / 2 pairs a slot
    assert len(check(book)) == 10 * 25 * 24 // 2


def test_metrics_of_one_experiment_are_all_computed_from_events_or_none_is(folder):
    """The shipped experiment with one guardrail of `metrics.yaml` among its own."""
    folder("metrics.yaml", (SHIPPED / "metrics.yaml").read_text())
    text = DEMO.replace("  guardrails:\n", "  guardrails:\n    - plays_7d\n").replace(
        "homepage-multi-objective", "mixed"
    )
    (problem,) = check(load(folder("mixed.yaml", text)))
    assert (problem.line, problem.field) == (line_of(text, "metrics:"), "metrics")
    assert problem.message.startswith(
        "minutes_per_member, plays_per_member, renewal_share is not defined over events"
    )


def test_a_hold_outs_name_is_no_experiments_too(folder):
    folder("holdouts.yaml", "holdouts:\n  homepage-multi-objective: {start: 2026-01-01, end: 2026-04-01}\n")
    (problem,) = check(load(folder("demo.yaml", DEMO)))
    assert problem.field == "name"
    assert "is a hold-out's name too" in problem.message


def test_a_hold_out_that_means_nothing_is_said_with_its_line(folder):
    text = "holdouts:\n  q1:\n    held_out: 0.6\n    start: 2026-01-01\n    end: 2026-04-01\n"
    with pytest.raises(InvalidConfig, match=r"holdouts\.yaml:3: holdouts\.q1\.held_out"):
        load(folder("holdouts.yaml", text))


def test_250_generated_declarations_fit_each_other_and_meet_across_layers(tmp_path):
    """25 layers of ten slots: every two layers, ten experiments by ten."""
    write_folder(tmp_path)
    book = load(tmp_path)
    assert len(book.experiments) == 250
    assert check(book) == ()
    assert len(declared_overlap(tmp_path, datetime(2026, 2, 1, tzinfo=UTC)).meeting()) == 25 * 24 // 2 * 100
    assert declared_overlap(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).names == ()
