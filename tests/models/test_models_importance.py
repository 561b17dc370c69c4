from dataclasses import replace

import numpy as np
import pytest

from models.importance import as_numbers, families, permutation_importance
from models.metrics import log_loss
from models.signature import Signature

TABLES = ["taste"] * 3 + ["share"] + ["loyalty"] + ["noise"] * 7  # what x₀..x₁₁ of the rows' world decide


@pytest.fixture(scope="module")
def named(ranker):
    names = tuple(f"{table}:x{i}" for i, table in enumerate(TABLES))
    return replace(ranker, signature=Signature(names, names))


@pytest.fixture(scope="module")
def measured(named, rows):
    return {(one.family, one.head): one for one in permutation_importance(named, rows(3000, seed=7), seed=0)}


def test_a_family_is_worth_something_to_the_head_that_it_decides_and_nothing_to_others(measured):
    decides = {"taste": "play", "share": "completion", "loyalty": "retention"}
    assert set(measured) == {(f, h) for f in (*decides, "noise") for h in decides.values()}
    for family, head in decides.items():
        others = [one.rise for (f, h), one in measured.items() if h == head and f != family]
        assert measured[family, head].rise > 0.05
        assert max(map(abs, others)) < 0.1 * measured[family, head].rise


def test_the_rise_is_what_shuffling_by_hand_costs(named, rows):
    data = rows(500, seed=8)
    found = permutation_importance(named, data, seed=5, repeats=1)
    order = np.random.default_rng(5).permutation(500)
    shuffled = data.features.copy()
    shuffled[:, :3] = shuffled[order, :3]  # `taste` comes first, so its shuffling is drawn first
    losses = [log_loss(data.play, named.score(x, data.position).play) for x in (data.features, shuffled)]
    assert (found[0].family, found[0].head) == ("taste", "play")
    assert found[0].rise == found[0].least == found[0].most == pytest.approx(losses[1] - losses[0], abs=1e-9)


def test_the_mean_lies_between_the_least_and_the_most(named, rows):
    found = permutation_importance(named, rows(300, seed=8), seed=1, repeats=4)
    assert all(one.least <= one.rise <= one.most for one in found)
    assert {one.head for one in found if one.least < one.most} == {one.head for one in found}


def test_the_same_seed_measures_the_same_and_another_seed_another(named, rows):
    data = rows(400, seed=9)
    first, again, other = (permutation_importance(named, data, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_of_many_rows_evenly_spaced_ones_are_scored(named, rows):
    data = rows(1000, seed=10)
    few = permutation_importance(named, data, seed=0, max_rows=300)
    assert few == permutation_importance(named, data.take(np.arange(0, 1000, 4)), seed=0)


def test_the_rows_are_left_as_they_were(named, rows):
    data = rows(200, seed=11)
    before = data.features.copy()
    permutation_importance(named, data, seed=0)
    np.testing.assert_array_equal(data.features, before)


def test_a_head_whose_outcome_is_unknown_here_has_no_importance(named, rows):
    data = replace(rows(200, seed=12), retention=np.full(200, np.nan, np.float32))
    assert {one.head for one in permutation_importance(named, data, seed=0)} == {"play", "completion"}


def test_families_are_tables_and_keep_their_order():
    found = families(["b:x", "a:y", "b:z"])
    assert {name: columns.tolist() for name, columns in found.items()} == {"b": [0, 2], "a": [1]}
    assert list(found) == ["b", "a"]


def test_numbers_are_named_by_head_and_family(measured):
    numbers = as_numbers(tuple(measured.values()))
    assert numbers["importance_play_taste"] == measured["taste", "play"].rise
    assert len(numbers) == len(measured)


def test_a_single_row_cannot_be_shuffled(named, rows):
    with pytest.raises(ValueError, match="1 rows cannot be shuffled"):
        permutation_importance(named, rows(5, seed=1).take(np.arange(1)), seed=0)
