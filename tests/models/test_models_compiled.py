from dataclasses import replace

import numpy as np
import pytest
import torch

from models.calibration import Calibration
from models.choice import Fusion
from models.compiled import CompiledRanker
from models.inputs import WrongWidth, fit_standardiser
from models.network import RankerNetwork
from models.pieces import fit_pieces
from models.ranker import Ranker
from models.settings import RankerConfig
from models.signature import Signature

HEADS = ("play", "completion", "retention", "choice")
TABLES = {"who": "user", "title": "title", "both": "user_title", "session": "user"}
COLUMNS = ("who",) * 5 + ("title",) * 7 + ("both",) * 6 + ("session",) * 3
TITLES = np.arange(40) + 1000


def table(of):
    return np.array([name == of for name in COLUMNS])


class Features:
    """A user's and every title's features: nulls, constants, tails of 10⁶ deviations, infinities when serving."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.of_title, self.rng = self._wild(rng, len(TITLES)), rng

    @staticmethod
    def _wild(rng, n):
        x = rng.normal(size=(n, len(COLUMNS)))
        x[:, ::4] = np.exp(4 * x[:, ::4])
        x[rng.random(x.shape) < 0.15] = np.nan
        x[:, 6] = 3.0
        return x.astype(np.float32)

    def candidates(self, title_ids):
        """(n, F) of one user."""
        x = self._wild(self.rng, len(title_ids))
        x[:, table("title")] = self.of_title[np.searchsorted(TITLES, title_ids)][:, table("title")]
        of_user = table("who") | table("session")
        x[:, of_user] = x[0, of_user]
        return x


def ranker(seed, **settings):
    torch.manual_seed(seed)
    features, config = (
        Features._wild(np.random.default_rng(seed), 500),
        RankerConfig(hidden=8, output=6, tower=5, **settings),
    )
    straight = fit_standardiser(features)
    read = straight.transform(features)[:, : straight.n_features]
    outcomes = {
        f"bends along {i}": (np.abs(column) > 0.7).astype(np.float32) for i, column in enumerate(read.T)
    }
    inputs = replace(straight, pieces=fit_pieces(features, read, outcomes, np.arange(500), pieces=3, bent=1))
    assert set(np.array(COLUMNS)[inputs.pieces.column]) == set(COLUMNS)  # every side has some
    assert inputs.scale.any()  # some columns are squashed
    assert len(inputs.indicators)  # some have an input for nulls
    network = RankerNetwork(inputs.width, HEADS, config).eval()
    with torch.no_grad():
        network.examination.weight[1:] = torch.randn(config.positions, 1)
        network.selection.weight[1:] = torch.randn(config.positions, 1)
    names = tuple(f"{name}:{i}" for i, name in enumerate(COLUMNS))
    calibration = dict.fromkeys(HEADS[:3], Calibration(0.9, 1.1, 0.2))
    return Ranker(
        network, inputs, calibration, 2.0, config, Signature(names, names), Fusion(0.6, 0.3), TABLES
    )


def assert_equal(compiled, plain, features, title_ids, retrieval):
    mine, theirs = compiled.score(features, title_ids, retrieval), plain.score(features, retrieval=retrieval)
    for head in HEADS:
        np.testing.assert_allclose(getattr(mine, head), getattr(theirs, head), atol=1e-5, err_msg=head)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "separate"},
        {"architecture": "shared_bottom"},
        {"architecture": "mmoe"},
        {"architecture": "ple", "levels": 2},
    ],
    ids=lambda settings: settings["architecture"],
)
def test_the_compiled_ranker_says_what_the_plain_one_says(seed, settings):
    plain, world = ranker(seed, **settings), Features(seed)
    compiled = CompiledRanker.of(plain).over(TITLES, world.candidates(TITLES))
    for n in (1, 2, 25):
        title_ids = world.rng.choice(TITLES, n, replace=False)
        features = world.candidates(title_ids)
        assert_equal(compiled, plain, features, title_ids, world.rng.normal(size=n).astype(np.float32))


def test_it_says_so_of_infinities_too():
    plain, world = ranker(0), Features(0)
    features = world.candidates(TITLES)
    features[3], features[4] = np.inf, -np.inf
    assert_equal(CompiledRanker.of(plain), plain, features, TITLES, np.zeros(40, np.float32))


def test_titles_it_does_not_know_are_computed():
    plain, world = ranker(1), Features(1)
    compiled = CompiledRanker.of(plain).over(TITLES[10:30], world.candidates(TITLES[10:30]))
    assert_equal(compiled, plain, world.candidates(TITLES), TITLES, np.ones(40, np.float32))


@pytest.mark.parametrize("newer", [7.5, np.nan, 0.0])
def test_a_titles_newer_features_count_at_once(newer):
    plain, world = ranker(2), Features(2)
    world.of_title[5, 7] = -0.0  # equal to 0 as a number, another value as bits
    compiled = CompiledRanker.of(plain).over(TITLES, world.candidates(TITLES))
    world.of_title[5, 7] = newer
    features = world.candidates(TITLES)
    assert_equal(compiled, plain, features, TITLES, np.ones(40, np.float32))


def test_the_catalogue_may_come_in_any_order():
    plain, world = ranker(3), Features(3)
    compiled = CompiledRanker.of(plain).over(TITLES[::-1], world.candidates(TITLES[::-1]))
    other = CompiledRanker.of(plain).over(TITLES, world.candidates(TITLES))
    np.testing.assert_array_equal(compiled.known.title_ids, TITLES)
    np.testing.assert_allclose(compiled.known.products, other.known.products, rtol=1e-6)


def test_what_is_known_is_used_where_nothing_has_changed():
    """Doubling what is remembered of one title changes that title's score and no other."""
    plain, world = ranker(4), Features(4)
    compiled = CompiledRanker.of(plain).over(TITLES, world.candidates(TITLES))
    features = world.candidates(TITLES)
    before = compiled.logits(features, TITLES)["play"]
    products = compiled.known.products.clone()
    products[7] += 100
    after = replace(compiled, known=replace(compiled.known, products=products)).logits(features, TITLES)[
        "play"
    ]
    assert np.flatnonzero(before != after).tolist() == [7]


def test_rows_of_many_users_are_told_apart():
    plain, world = ranker(5), Features(5)
    features = world._wild(world.rng, 40)
    assert_equal(CompiledRanker.of(plain), plain, features, TITLES, np.ones(40, np.float32))


def test_a_ranker_that_does_not_say_what_its_tables_are_about_is_compiled_too():
    plain, world = replace(ranker(6), about={}), Features(6)
    compiled = CompiledRanker.of(plain).over(TITLES, world.candidates(TITLES))
    assert_equal(compiled, plain, world.candidates(TITLES), TITLES, np.ones(40, np.float32))


def test_without_retrieval_scores_there_is_no_choice():
    plain, world = ranker(7), Features(7)
    assert CompiledRanker.of(plain).score(world.candidates(TITLES), TITLES).heads == HEADS[:3]


def test_no_candidates_have_no_scores():
    compiled = CompiledRanker.of(ranker(8))
    found = compiled.score(
        np.empty((0, len(COLUMNS)), np.float32), np.empty(0, np.int64), np.empty(0, np.float32)
    )
    assert [len(getattr(found, head)) for head in HEADS] == [0] * 4


def test_features_of_another_width_are_refused():
    with pytest.raises(WrongWidth):
        CompiledRanker.of(ranker(9)).score(np.zeros((2, 3), np.float32), TITLES[:2])
