from __future__ import annotations

from dataclasses import replace

import pytest

from events.sources import SOURCES, WORLD, Source
from feature_repo.arithmetic import Ref
from feature_repo.contracts import contract
from feature_repo.declarations import Derived, FeatureTable, UnknownFeature, Weight
from feature_repo.families import declare
from feature_repo.measures import Measure, derived
from feature_repo.relations import Relations


def every_feature(source=WORLD):
    return [(table, feature) for table in declare(source).tables for feature in table.features]


def test_there_are_at_least_fifty_light_and_five_hundred_heavy_features():
    weights = [table.weight for table, _ in every_feature()]
    assert weights.count(Weight.LIGHT) >= 50
    assert weights.count(Weight.HEAVY) >= 500


def test_every_feature_has_description_unit_owner_and_digest_and_says_what_to_expect():
    for _, feature in every_feature():
        assert feature.description, feature.name
        assert feature.unit, feature.name
        assert feature.owner, feature.name
        assert len(feature.digest) == 16, feature.name
        assert feature.expect, feature.name


def test_digests_of_different_features_of_an_entity_differ():
    for entity in {table.entity.name for table, _ in every_feature()}:
        mine = [(f.name, f.digest) for t, f in every_feature() if t.entity.name == entity]
        by_digest: dict[str, set[str]] = {}
        for name, digest in mine:
            by_digest.setdefault(digest, set()).add(name)
        assert not {d: names for d, names in by_digest.items() if len(names) > 1}


def test_a_name_within_one_entity_means_one_thing():
    meaning: dict[tuple[str, str], set[str]] = {}
    for table, feature in every_feature():
        if not isinstance(feature.computation, Derived):
            meaning.setdefault((table.entity.name, feature.name), set()).add(feature.digest)
    assert not {key: digests for key, digests in meaning.items() if len(digests) > 1}


def test_changing_a_window_or_a_type_changes_the_digest_and_rewording_does_not():
    feature = declare(WORLD).table("user_profile")["play_count_28d"]
    assert replace(feature, over=27).digest != feature.digest
    assert replace(feature, entity="title").digest != feature.digest
    assert replace(feature, description="said otherwise").digest == feature.digest


def test_what_a_source_lacks_is_unavailable_and_says_why():
    declared = declare(SOURCES["movielens"])
    reasons = {(table, f.name): missing for table, f, missing in declared.unavailable}
    assert reasons["user_activity", "watch_minutes_sum_7d"] == ("plays.watch_minutes",) or any(
        name.startswith("watch_minutes_sum") and missing == ("plays.watch_minutes",)
        for (_, name), missing in reasons.items()
    )
    available = {f.name for t in declared.tables for f in t.features}
    assert not [name for name in available if "watch_minutes" in name or "hover" in name]


def test_a_pair_feature_is_unavailable_when_either_side_is():
    for source in SOURCES.values():
        declared = declare(source)
        stored = {(t.name, f.name) for t in declared.stored for f in t.features}
        from feature_repo.arithmetic import references

        for feature in declared.table("user_title").features:
            assert isinstance(feature.computation, Derived)
            assert {(r.table, r.feature) for r in references(feature.computation.expression)} <= stored


def test_declaring_a_feature_twice_names_it():
    table = declare(WORLD).table("user_profile")
    with pytest.raises(ValueError, match="declares days_member more than once"):
        replace(table, features=(table.features[0], table.features[0]))


def test_a_reference_to_a_misspelt_feature_suggests_the_right_one():
    table = declare(WORLD).table("user_profile")
    wrong = derived("x", Ref("user_profile", "play_cuont_28d"), "d", "u", frozenset(), ())
    with pytest.raises(UnknownFeature, match="Did you mean 'play_count_28d'"):
        FeatureTable("user_profile", table.entity, table.weight, "d", (*table.features, wrong))


def test_a_source_that_lacks_a_misspelt_column_suggests_the_right_one():
    with pytest.raises(LookupError, match="Did you mean 'plays.watch_minutes'"):
        replace(WORLD, lacks=frozenset({"plays.watch_minuets"}))
    assert isinstance(WORLD, Source)


def test_an_unknown_aggregate_is_refused_when_the_measure_is_declared():
    with pytest.raises(ValueError, match="no function 'median'"):
        Measure("plays", "watch_minutes", "median", "minutes", "minutes", frozenset())


def test_a_window_is_part_of_the_derived_name():
    measure = Measure(
        "plays", "watch_minutes", "sum", "minutes watched", "minutes", frozenset(), per_day=1440
    )
    feature = measure.over(Relations(WORLD), 28)
    assert feature.name == "watch_minutes_sum_28d"
    assert feature.expect[1].high == 28 * 1440  # type: ignore[union-attr]


def test_a_contract_covers_every_feature_and_carries_the_tables_digest():
    table = declare(WORLD).table("title_activity")
    made = contract(table)
    assert [c.name for c in made.columns][3:] == list(table.names)
    assert made.digest == table.digest
