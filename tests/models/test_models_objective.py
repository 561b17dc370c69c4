import numpy as np
import pytest
from pydantic import ValidationError

from models.objective import HeadScores, NothingToRankBy, ObjectiveWeights, objective, objective_parts


def f32(*values):
    return np.array(values, dtype=np.float32)


SCORES = HeadScores(play=f32(0.5, 0.2), completion=f32(0.8, 0.9), retention=f32(0.6, 0.7))


def test_the_objective_is_the_weighted_mean_of_its_three_gains():
    weights = ObjectiveWeights(play=1, completion=2, retention=1)
    # (1·.5 + 2·.5·.8 + 1·.6) / 4 and (1·.2 + 2·.2·.9 + 1·.7) / 4
    np.testing.assert_allclose(objective(SCORES, weights), [1.9 / 4, 1.26 / 4], rtol=1e-6)


def test_the_parts_say_what_each_head_brought():
    weights = ObjectiveWeights(play=1, completion=2, retention=1)
    parts = objective_parts(SCORES, weights)
    np.testing.assert_allclose(parts["play"], [0.125, 0.05], rtol=1e-6)
    np.testing.assert_allclose(parts["completion"], [0.2, 0.09], rtol=1e-6)
    np.testing.assert_allclose(sum(parts.values()), objective(SCORES, weights), rtol=1e-6)


def test_an_absent_heads_weight_counts_for_nothing():
    only_play = HeadScores(play=f32(0.3))
    assert only_play.heads == ("play",)
    np.testing.assert_allclose(
        objective(only_play, ObjectiveWeights(play=2, completion=9, retention=9)), [0.3]
    )


def test_without_a_weight_on_any_present_head_there_is_nothing_to_rank_by():
    with pytest.raises(NothingToRankBy, match="play"):
        objective(HeadScores(play=f32(0.3)), ObjectiveWeights(play=0, completion=1))


@pytest.mark.parametrize(
    "wrong",
    [{"play": -1}, {"diversity": 1.1}, {"diversity_window": 1}, {"diversity_window": 10.5}, {"completed": 1}],
)
def test_weights_out_of_bounds_or_misspelt_are_refused(wrong):
    with pytest.raises(ValidationError):
        ObjectiveWeights(**wrong)
