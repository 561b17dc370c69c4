import itertools

import numpy as np
import pytest

from models.data import MalformedData
from models.diversity import intra_list_diversity, rerank, with_genres


def unit(rng, n, dimension=6):
    v = rng.normal(size=(n, dimension))
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


def kernel(vectors):
    v = vectors.astype(np.float64)
    return (1 + v @ v.T) / 2


def scaled(scores):
    return (scores - scores.min()) / (scores.max() - scores.min())


def last(chosen, window):
    """The titles that the next is held against."""
    return chosen if window is None else chosen[len(chosen) - min(len(chosen), window - 1) :]


def greedy_determinant(scores, vectors, size, weight, window=None):
    """Each place to the title that makes (1-w)·Σr + w·log det of the list's, or window's, kernel largest."""
    r, s = scaled(scores), 0.999 * kernel(vectors) + 0.001 * np.eye(len(vectors))
    chosen, penalties = [], []
    value = lambda items: np.linalg.slogdet(s[np.ix_(items, items)])[1] if items else 0.0  # noqa: E731
    for _ in range(size):
        rest = [i for i in range(len(scores)) if i not in chosen]
        near = last(chosen, window)
        gain = {i: (1 - weight) * r[i] + weight * (value([*near, i]) - value(near)) for i in rest}
        best = max(rest, key=lambda i: gain[i])
        penalties.append((1 - weight) * r[best] - gain[best])
        chosen.append(best)
    return chosen, penalties


def greedy_mmr(scores, vectors, size, weight, window=None):
    """Maximal marginal relevance, by its definition."""
    r, s = scaled(scores), kernel(vectors)
    chosen, penalties = [], []
    for _ in range(size):
        rest = [i for i in range(len(scores)) if i not in chosen]
        cost = {i: weight * max((s[i, j] for j in last(chosen, window)), default=0.0) for i in rest}
        best = max(rest, key=lambda i: (1 - weight) * r[i] - cost[i])
        penalties.append(cost[best])
        chosen.append(best)
    return chosen, penalties


@pytest.mark.parametrize(("method", "oracle"), [("dpp", greedy_determinant), ("mmr", greedy_mmr)])
@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_the_list_is_that_of_the_slow_and_obvious_method(method, oracle, weight, seed):
    rng = np.random.default_rng(seed)
    scores, vectors = rng.random(14), unit(rng, 14)
    order, penalties = oracle(scores, vectors, 12, weight)  # more than the 7 dimensions of the kernel
    found = rerank(scores, vectors, 12, weight, method)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.penalties, penalties, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "oracle"), [("dpp", greedy_determinant), ("mmr", greedy_mmr)])
@pytest.mark.parametrize("window", [2, 3, 5, 11, 12, 13, 40])
@pytest.mark.parametrize("seed", range(3))
def test_with_a_window_only_the_last_places_are_held_against_a_title(method, oracle, window, seed):
    rng = np.random.default_rng(seed)
    scores, vectors = rng.random(16), unit(rng, 16)
    order, penalties = oracle(scores, vectors, 12, 0.6, window)
    found = rerank(scores, vectors, 12, 0.6, method, window)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.penalties, penalties, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_a_window_as_long_as_the_list_is_no_window(method):
    rng = np.random.default_rng(7)
    scores, vectors = rng.random(60), unit(rng, 60)
    whole = rerank(scores, vectors, 30, 0.5, method)
    for window in (30, 31, 1000):
        held = rerank(scores, vectors, 30, 0.5, method, window)
        assert held.order.tolist() == whole.order.tolist()
        assert held.penalties.tolist() == whole.penalties.tolist()
    assert rerank(scores, vectors, 30, 0.5, method, 3).order.tolist() != whole.order.tolist()


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_copies_come_again_once_the_window_has_passed_them(method):
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    scores = np.array([1.0, 0.99, 0.3, 0.2])
    assert rerank(scores, vectors, 4, 0.8, method, 2).order.tolist() == [0, 2, 1, 3]
    assert rerank(scores, vectors, 4, 0.8, method).order.tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_many_copies_are_ordered_within_a_window_too(method):
    rng = np.random.default_rng(1)
    found = rerank(rng.random(40), np.repeat(unit(rng, 4, 3), 10, axis=0), 40, 0.7, method, 6)
    assert sorted(found.order.tolist()) == list(range(40))
    assert np.isfinite(found.penalties).all()


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_without_weight_on_diversity_the_order_is_that_of_the_scores(method):
    rng = np.random.default_rng(0)
    scores, vectors = rng.integers(0, 5, 30).astype(float), unit(rng, 30)
    found = rerank(scores, vectors, 30, 0, method)
    assert found.order.tolist() == np.argsort(-scores, kind="stable").tolist()
    assert (found.penalties == 0).all()


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_a_copy_of_a_chosen_title_waits_until_the_others_have_had_their_place(method):
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    found = rerank(np.array([1.0, 0.99, 0.5]), vectors, 3, 0.8, method)
    assert found.order.tolist() == [0, 2, 1]


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_an_opposite_title_repeats_nothing(method):
    vectors = np.array([[1, 0], [-1, 0], [0.6, 0.8]], dtype=np.float32)
    found = rerank(np.array([1.0, 0.5, 0.5]), vectors, 2, 0.5, method)
    assert found.order.tolist() == [0, 1]
    assert found.penalties[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_more_weight_makes_a_list_at_least_as_varied_and_no_better_scored(method):
    rng = np.random.default_rng(3)
    vectors = unit(rng, 200, 16)
    scores = vectors[:, 0] * 2 + rng.random(200)  # the best are alike
    lists = [rerank(scores, vectors, 20, weight, method).order for weight in (0, 0.3, 0.9)]
    variety = [intra_list_diversity(vectors[order]) for order in lists]
    merit = [scores[order].mean() for order in lists]
    assert variety[0] < variety[1] < variety[2]
    assert merit[0] > merit[1] > merit[2]


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_every_title_gets_a_place_once_even_when_they_outnumber_the_dimensions(method):
    rng = np.random.default_rng(1)
    found = rerank(rng.random(40), np.repeat(unit(rng, 4, 3), 10, axis=0), 40, 0.7, method)
    assert sorted(found.order.tolist()) == list(range(40))
    assert np.isfinite(found.penalties).all()


@pytest.mark.parametrize("method", ["dpp", "mmr"])
def test_a_longer_list_begins_with_the_shorter_one(method):
    rng = np.random.default_rng(2)
    scores, vectors = rng.random(50), unit(rng, 50)
    longer, shorter = (rerank(scores, vectors, size, 0.4, method).order for size in (20, 8))
    assert longer[:8].tolist() == shorter.tolist()


def test_scaling_or_shifting_the_scores_changes_nothing():
    rng = np.random.default_rng(5)
    scores, vectors = rng.random(30), unit(rng, 30)
    plain, other = rerank(scores, vectors, 10, 0.5), rerank(scores * 7 - 100, vectors, 10, 0.5)
    assert plain.order.tolist() == other.order.tolist()


def test_asking_for_more_than_there_is_gives_all():
    rng = np.random.default_rng(0)
    assert len(rerank(rng.random(3), unit(rng, 3), 10, 0.5).order) == 3


def test_equal_scores_are_told_apart_by_variety_alone():
    rng = np.random.default_rng(6)
    vectors = unit(rng, 5)
    assert len(set(rerank(np.ones(5), vectors, 5, 0.5).order.tolist())) == 5


def test_intra_list_diversity_is_the_mean_distance_over_pairs():
    vectors = unit(np.random.default_rng(0), 6)
    pairs = [1 - float(a @ b) for a, b in itertools.combinations(vectors.astype(np.float64), 2)]
    assert intra_list_diversity(vectors) == pytest.approx(np.mean(pairs), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"scores": np.array([1, np.nan, 0])}, "1 of 3 scores are not finite", id="nan score"),
        pytest.param({"vectors": np.ones((3, 2), np.float32)}, "unit length", id="long vectors"),
        pytest.param({"vectors": np.eye(2, dtype=np.float32)}, "3 scores and 2 vectors", id="ragged"),
        pytest.param({"diversity_weight": 1.5}, "0..1", id="weight"),
        pytest.param({"size": 0}, "cannot be ranked", id="no places"),
        pytest.param({"window": 1}, "2 titles at least", id="a window of nothing"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, error):
    whole = {
        "scores": np.arange(3.0),
        "vectors": np.eye(3, dtype=np.float32),
        "size": 2,
        "diversity_weight": 0.5,
    }
    with pytest.raises(ValueError, match=error):
        rerank(**(whole | change))


def test_a_list_of_one_has_no_diversity():
    with pytest.raises(MalformedData):
        intra_list_diversity(np.eye(3, dtype=np.float32)[:1])


def test_rounding_does_not_add_up_over_a_long_list():
    rng = np.random.default_rng(8)
    scores, vectors = rng.random(120), np.repeat(unit(rng, 40, 5), 3, axis=0)
    order, penalties = greedy_determinant(scores, vectors, 110, 0.7, 4)
    found = rerank(scores, vectors, 110, 0.7, "dpp", 4)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.penalties, penalties, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_genres_and_vectors_say_together_how_alike_titles_are(share):
    """The oracle: (1 - share) of the vectors' product and share of |A ∩ B| / √(|A| |B|), and no title is like one without genres."""
    genres = [("Drama",), ("Drama", "War"), (), ("War", "Crime", "Drama"), ()]
    vectors = unit(np.random.default_rng(3), len(genres))
    by_genre = [
        [
            1.0 if i == j else len({*a} & {*b}) / np.sqrt(max(len(a), 1) * max(len(b), 1))
            for j, b in enumerate(genres)
        ]
        for i, a in enumerate(genres)
    ]
    made = with_genres(vectors, genres, share)
    expected = (1 - share) * vectors @ vectors.T + share * np.array(by_genre)
    np.testing.assert_allclose(made @ made.T, expected, atol=1e-6)
