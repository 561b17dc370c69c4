import numpy as np
import pytest

from models.coplays import fit_coplays, no_coplays
from models.data import Histories


def histories(seed, users=80, titles=30, each=8):
    """Users of two camps that seldom watch what the other camp does; ids are 100 + row."""
    rng = np.random.default_rng(seed)
    lists = []
    for user in range(users):
        mine = np.arange(titles) % 2 == user % 2
        chance = np.where(mine, 5.0, 1.0) / np.where(mine, 5.0, 1.0).sum()
        lists.append((100 + rng.choice(titles, each, replace=False, p=chance)).tolist())
    return Histories.of_lists(lists)


def ease(found, ridge):
    """Steck 2019, equation 8, as it stands there; ids and B."""
    ids = np.unique(found.values)
    x = np.array([np.isin(ids, found.of(user)) for user in range(len(found))], dtype=np.float64)
    kept = x.sum(axis=0) >= 2
    x = x[:, kept]
    inverse = np.linalg.inv(x.T @ x + ridge * np.eye(x.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return ids[kept], weights


def fitted(found, rank=40, ridge=7.0, max_titles=1000, seed=0):
    rng = np.random.default_rng(seed)
    return fit_coplays(found, rank=rank, ridge=ridge, max_titles=max_titles, rng=rng)


@pytest.mark.parametrize("seed", range(4))
def test_with_as_many_directions_as_titles_they_are_eases_weights(seed):
    found = histories(seed)
    ids, weights = ease(found, 7.0)
    coplays = fitted(found)
    assert np.array_equal(coplays.title_ids, ids)
    np.testing.assert_allclose(coplays.reads @ coplays.shows.T, weights, atol=2e-5)


def test_with_fewer_directions_they_are_the_best_of_that_rank():
    found = histories(1)
    _, weights = ease(found, 7.0)
    left, values, right = np.linalg.svd(weights)  # Eckart & Young 1936
    best = (left[:, :5] * values[:5]) @ right[:5]
    coplays = fitted(found, rank=5)
    error = np.linalg.norm(coplays.reads @ coplays.shows.T - weights)
    assert error == pytest.approx(np.linalg.norm(best - weights), rel=1e-3)


def test_a_title_speaks_for_those_its_viewers_watch_and_against_those_they_leave():
    found = histories(2)
    ids, _ = ease(found, 7.0)
    reads, shows = fitted(found).of(ids)
    weights = reads @ shows.T
    same = (ids[:, None] % 2 == ids[None, :] % 2) & ~np.eye(len(ids), dtype=bool)
    assert weights[same].mean() > weights[~same].mean() + 0.02


def test_a_title_watched_twice_by_a_user_counts_once():
    once, twice = (
        Histories.of_lists([[1, 2], [1, 2], [2, 3], [1, 3]]),
        Histories.of_lists([[1, 2, 1], [1, 2], [2, 3], [1, 3]]),
    )
    np.testing.assert_array_equal(fitted(once).shows, fitted(twice).shows)


def test_only_the_most_watched_titles_are_counted_and_of_those_watched_once_none():
    found = Histories.of_lists([[1, 2, 3], [1, 2, 3], [1, 2], [1, 9]])
    assert fitted(found).title_ids.tolist() == [1, 2, 3]
    assert fitted(found, max_titles=2).title_ids.tolist() == [1, 2]


def test_a_title_nobody_knows_says_nothing():
    coplays = fitted(histories(0))
    reads, shows = coplays.of(np.array([7, 100, 10_000]))
    assert not reads[[0, 2]].any()
    assert not shows[[0, 2]].any()
    assert shows[1].any()


@pytest.mark.parametrize("lists", [[], [[]], [[1, 2, 3]], [[1], [1]]])
def test_where_no_two_titles_share_two_viewers_there_are_no_coplays(lists):
    coplays = fitted(Histories.of_lists(lists), rank=3)
    assert len(coplays.title_ids) == 0
    assert coplays.rank == 3
    assert coplays.of(np.array([1]))[0].tolist() == [[0, 0, 0]]


def test_more_directions_than_titles_leave_the_last_at_zero():
    found = Histories.of_lists([[1, 2], [1, 2], [2, 3], [3, 1], [3, 2]])
    coplays = fitted(found, rank=10)
    assert coplays.reads.shape == (3, 10)
    assert not coplays.reads[:, 3:].any()


def test_equal_seeds_give_equal_bits():
    assert np.array_equal(fitted(histories(0), rank=4).reads, fitted(histories(0), rank=4).reads)


def test_no_coplays_have_the_rank_that_was_asked_for():
    assert no_coplays(6).of(np.array([1, 2]))[1].shape == (2, 6)
