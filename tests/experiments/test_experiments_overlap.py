"""Who can meet whom."""

from collections import Counter

import pytest

from experiments.assignment import Assigner
from experiments.live import LiveExperiments
from experiments.overlap import Overlap, overlap


@pytest.fixture(scope="module")
def matrix(many):
    return overlap(many)


def share(matrix, first, second):
    return matrix.shares[matrix.names.index(first)][matrix.names.index(second)]


def test_experiments_of_different_layers_share_the_product_of_their_reaches(matrix):
    """e0-0 reaches a tenth by a half, e1-4 a tenth by seven tenths."""
    assert share(matrix, "e0-0", "e1-4") == pytest.approx(0.05 * 0.07)
    assert share(matrix, "e0-0", "e0-0") == pytest.approx(0.05)


def test_experiments_of_one_layer_never_meet(matrix):
    assert share(matrix, "e0-0", "e0-4") == 0


def test_experiments_for_other_countries_never_meet(many):
    norway = many.named("e0-3")
    germany = many.named("e1-3").model_copy(
        update={
            "declaration": many.named("e1-3").declaration.model_copy(
                update={"targeting": {"country": ("SE",)}}
            )
        }
    )
    assert overlap(LiveExperiments(experiments=(norway, germany))).meeting() == ()


def test_the_matrix_is_symmetric_and_lists_each_pair_once(matrix):
    assert all(matrix.shares[i][j] == matrix.shares[j][i] for i in range(0, 250, 17) for j in range(250))
    pairs = matrix.meeting()
    assert len(pairs) == 25 * 24 // 2 * 100  # every two layers, ten experiments by ten
    assert [p[2] for p in pairs] == sorted((p[2] for p in pairs), reverse=True)


def test_units_meet_as_often_as_the_matrix_says(many):
    """30,000 units in two layers, against the binomial's own error."""
    live = LiveExperiments(
        experiments=tuple(e for e in many.experiments if e.name in ("e5-9", "e6-9", "e6-8"))
    )
    expected = overlap(live)
    assigner = Assigner(live)
    met = Counter(tuple(name for name, _ in assigner.assign(unit).arms) for unit in range(30_000))
    for first, second, p in expected.meeting():
        assert met[first, second] / 30_000 == pytest.approx(p, abs=4 * (p / 30_000) ** 0.5)


def test_the_matrix_survives_json(matrix):
    assert Overlap.model_validate_json(matrix.model_dump_json()) == matrix
