import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.attribution import attributions
from models.choice import Fusion
from models.objective import NothingToRankBy, ObjectiveWeights, objective

ALL = ObjectiveWeights(play=1, completion=2, retention=0.5, choice=3)
PLAY = ObjectiveWeights(play=1, completion=0, retention=0, choice=0)


@pytest.fixture(scope="module")
def choosing(rows, fit_ranker, choices):
    """A ranker that reads a feature in pieces: members stay where it is far from its mean, to either side."""

    def bent(data):
        chance = np.where(np.abs(data.features[:, 4]) > 0.7, 0.8, 0.4)
        stays = np.random.default_rng(0).random(len(data)) < chance
        return replace(data, retention=stays.astype(np.float32))

    return fit_ranker(bent(rows(3000, seed=0)), bent(rows(1000, seed=1, period=1)), choices())


@pytest.fixture(scope="module")
def candidates(rows):
    """Features (40, 12) of one user's candidates, and what the retriever gave them."""
    return rows(40, seed=5).features, np.random.default_rng(6).normal(size=40).astype(np.float32)


def test_what_is_explained_is_the_objective_that_the_page_ranks_by(choosing, candidates):
    features, retrieval = candidates
    told = attributions(choosing, features, retrieval, ALL, np.arange(40))
    ranked_by = objective(choosing.score(features, retrieval=retrieval), ALL)
    np.testing.assert_allclose(told.objective, ranked_by, atol=2e-6)


@pytest.mark.parametrize("weights", [ALL, PLAY])
def test_what_the_inputs_brought_sums_to_how_far_a_title_is_from_an_average_one(
    choosing, candidates, weights
):
    told = attributions(choosing, *candidates, weights, np.array([3, 0, 17]))
    assert np.abs(told.unexplained).max() < 2e-3
    assert np.abs(told.objective - told.baseline).max() > 0.05
    finer = attributions(choosing, *candidates, weights, np.array([3, 0, 17]), steps=1024)
    assert np.abs(finer.unexplained).max() < 2e-4  # the rest is the integration's


def test_the_baseline_is_a_title_with_every_feature_at_its_average(choosing, candidates):
    features, retrieval = candidates
    average = np.repeat(choosing.inputs.mean[None], 1, axis=0)
    average = np.where(choosing.inputs.scale > 0, choosing.inputs.scale * np.expm1(average), average)
    assert len(choosing.inputs.pieces)  # which are not at their average where their feature is
    told = attributions(choosing, features, retrieval, PLAY, np.array([0]))
    assert told.baseline == pytest.approx(float(choosing.score(average.astype(np.float32)).play[0]), abs=1e-4)


def test_an_input_that_the_network_does_not_read_brought_nothing(choosing, candidates):
    network = copy.deepcopy(choosing.network)
    with torch.no_grad():
        network.entrance.first.weight[:, choosing.inputs.owners == 4] = 0
    told = attributions(replace(choosing, network=network), *candidates, ALL, np.arange(40))
    assert (told.features[:, 4] == 0).all()
    assert (told.features[:, 0] != 0).all()


def test_where_only_the_retriever_counts_all_is_due_to_its_score(choosing, candidates):
    only = replace(choosing, fusion=Fusion(network=0.0, retrieval=1.0))
    told = attributions(only, *candidates, ObjectiveWeights(play=0, completion=0, retention=0), np.arange(40))
    assert (told.features == 0).all()
    assert (np.sign(told.retrieval) == np.sign(candidates[1] - candidates[1].mean())).all()


def test_without_retrieval_scores_nothing_is_due_to_them_and_choice_is_left_out(choosing, candidates):
    told = attributions(choosing, candidates[0], None, ALL, np.arange(40))
    np.testing.assert_allclose(told.objective, objective(choosing.score(candidates[0]), ALL), atol=2e-6)
    assert (told.retrieval == 0).all()


def test_the_feature_that_decides_a_play_is_named_for_it_and_in_its_direction(ranker, rows):
    features = rows(400, seed=5).features
    told = attributions(ranker, features, None, PLAY, np.arange(400))
    assert np.abs(told.features).mean(axis=0).argmax() == 0  # x₀ decides plays in the rows' world
    assert np.corrcoef(told.features[:, 0], features[:, 0])[0, 1] > 0.9


def test_what_a_missing_value_brings_counts_to_its_feature(ranker, candidates):
    features = candidates[0].copy()
    features[:, 6] = np.nan
    told = attributions(ranker, features, None, PLAY, np.arange(40))
    assert np.abs(told.unexplained).max() < 5e-3
    assert (told.features[:, 6] != 0).all()  # the value itself is the average: only its mark is left


def test_weights_of_heads_that_are_absent_explain_nothing(ranker, candidates):
    only_choice = ObjectiveWeights(play=0, completion=0, retention=0)
    with pytest.raises(NothingToRankBy, match="choice"):
        attributions(ranker, candidates[0], None, only_choice, np.array([0]))
