"""What the ledger takes and refuses before anything is written, and recording what precedes a model."""

import dataclasses
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import (
    ArmRecord,
    DefinitionConflict,
    ExperimentRecord,
    FeatureRecord,
    GateRecord,
    InvalidRecord,
    Metric,
    NotRecorded,
    ServiceRecord,
    VersionDraft,
)
from registry.canonical import canonical, digest_of, plain

ROW = {"a.json": b"1"}


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Metric("auc", float("nan")), "auc"),
        (lambda: Metric("auc", float("inf")), "finite"),
        (lambda: Metric("recall", 0.1, k=0), "cut-off"),
        (lambda: Metric("", 0.1), "1 to 250"),
        (lambda: ServiceRecord("s", ()), "no features"),
        (lambda: ServiceRecord("s", ("a", "b", "a")), "names a twice"),
        (lambda: ServiceRecord("s/1", ("a",)), "cannot be a name"),
        (lambda: VersionDraft("a@b", ROW), "cannot be a name"),
        (lambda: VersionDraft("r", ROW, config={"a": float("nan")}), "JSON"),
        (lambda: VersionDraft("r", ROW, config={1: 2}), "keys are text"),
        (lambda: VersionDraft("r", ROW, config={"a": object()}), "JSON"),
        (lambda: VersionDraft("r", ROW, tags={"a": "x\0"}), "NUL"),
        (lambda: VersionDraft("r", ROW, tags={"a": "\ud800"}), "surrogate"),
        (lambda: VersionDraft("r", ROW, tags={"": "x"}), "1 to 250"),
        (lambda: VersionDraft("r", ROW, tags={"a": "x" * 100_001}), "limit is 100000"),
        (lambda: VersionDraft("r", ROW, metrics=[Metric("a", 1), Metric("a", 2)]), "twice"),
        (lambda: VersionDraft("r", ROW, metrics=[Metric("a_at_5", 1), Metric("a", 2, k=5)]), "twice"),
        (lambda: GateRecord("plays", datetime(2026, 1, 1), passed=True), "no time zone"),
        (lambda: ArmRecord("a", {"x": "ranker"}, {"x": 1}), "to a model and to a value"),
        (lambda: ArmRecord("a", values={"x": None}), "null"),
        (lambda: ExperimentRecord("e", "page", ()), "no arms"),
        (lambda: ExperimentRecord("e", "page", (ArmRecord("a"), ArmRecord("a"))), "a twice"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_where_it_is_made(make, culprit):
    with pytest.raises(InvalidRecord, match=culprit):
        make()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"interval_start": datetime(2026, 1, 1)},
        {"as_of": datetime(2026, 1, 1)},
    ],
)
def test_a_training_set_without_rows_or_zones_is_refused(training_set, change):
    with pytest.raises(InvalidRecord):
        training_set(**change) if "interval_start" not in change else dataclasses.replace(
            training_set(), **change
        )


def test_a_training_set_over_an_empty_interval_is_refused(training_set):
    made = training_set()
    with pytest.raises(InvalidRecord, match="holds no time"):
        dataclasses.replace(made, interval_end=made.interval_start)
    dataclasses.replace(made, interval_end=made.interval_start + timedelta(microseconds=1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_canonical_json_gives_the_value_back_and_one_text_for_one_value(value):
    assert plain(value) == value
    assert canonical(plain(value)) == canonical(value)


def test_the_digest_of_json_does_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": (1, 2), "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})


def feature(**change: object) -> FeatureRecord:
    return dataclasses.replace(
        FeatureRecord("d1", "plays_7d", "user_activity", "FLOAT", {"days": 7}), **change
    )


def test_recording_features_again_changes_nothing(ledger, raw):
    features = [feature(digest=f"d{n}", name=f"f{n}") for n in range(1200)]
    ledger.record_features(features)
    ledger.record_features(features[:1100])
    assert raw("SELECT count(*) FROM feature") == [(1200,)]


@pytest.mark.parametrize(
    "change", [{"name": "plays_8d"}, {"view": "other"}, {"dtype": "BIGINT"}, {"definition": {"days": 8}}]
)
def test_one_feature_digest_has_one_meaning(ledger, change):
    ledger.record_features([feature()])
    with pytest.raises(DefinitionConflict, match=next(iter(change))):
        ledger.record_features([feature(digest="d2", name="new"), feature(**change)])
    with pytest.raises(DefinitionConflict, match=next(iter(change))):
        ledger.record_features([feature(digest="d3"), feature(digest="d3", **change)])


def test_one_name_may_have_had_several_meanings(ledger):
    ledger.record_features([feature(), feature(digest="d2", definition={"days": 8})])
    assert {node.digest for node in ledger.impact("feature plays_7d").features} == {"d1", "d2"}


def test_a_service_needs_its_features_recorded(ledger):
    ledger.record_features([feature()])
    with pytest.raises(NotRecorded, match="feature 'd2'"):
        ledger.record_service(ServiceRecord("s", ("d1", "d2")))


def test_recording_a_service_or_a_training_set_again_changes_nothing(ledger, lineage, raw):
    assert lineage(ledger) == lineage(ledger)
    counts = [raw(f"SELECT count(*) FROM {name}") for name in ("feature_service_member", "training_set")]
    assert counts == [[(3,)], [(1,)]]


@pytest.mark.parametrize("change", [{"rows": 7}, {"generation": "g"}, {"event_digests": {"plays": "e2"}}])
def test_one_training_set_digest_has_one_meaning(ledger, training_set, change):
    ledger.record_training_set(training_set())
    with pytest.raises(DefinitionConflict, match=next(iter(change))):
        ledger.record_training_set(training_set(**change))


def test_a_training_set_of_an_unknown_service_is_refused(ledger, training_set):
    with pytest.raises(NotRecorded, match="feature service 'nowhere'"):
        ledger.record_training_set(training_set(services=("nowhere",)))
