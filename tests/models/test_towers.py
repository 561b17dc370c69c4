import numpy as np
import pytest
import torch

from models.settings import RetrievalConfig
from models.towers import TitleTower, UserTower

CONFIG = RetrievalConfig(dimension=8, hidden=12, history=6, coplays=3, channels=2, blocks=2, temperature=0.5)


@pytest.fixture
def tower():
    torch.manual_seed(0)
    made = UserTower(4, CONFIG).eval()
    for layer in (made.next, made.taste):  # which a new tower leaves at zero
        torch.nn.init.normal_(layer.weight)
    return made


def a_user(seed=0, seen=6):
    generator = torch.Generator().manual_seed(seed)
    reads = torch.randn(1, 6, 11, generator=generator)
    mask = torch.arange(6)[None] >= 6 - seen
    return torch.randn(1, 4, generator=generator), reads * mask[..., None], mask


def test_what_is_known_at_a_place_does_not_depend_on_what_was_watched_later(tower):
    inputs, reads, seen = a_user()
    later = reads.clone()
    later[:, 4:] += torch.randn(2, 11)  # a constant would be normalised away
    _, before = tower(inputs, reads, seen)
    _, after = tower(inputs, later, seen)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_what_was_watched_earlier_is_seen_from_every_later_place(tower):
    inputs, reads, seen = a_user()
    other = reads.clone()
    other[:, 1] += torch.randn(11)
    _, before = tower(inputs, reads, seen)
    _, after = tower(inputs, other, seen)
    assert ((before - after).abs().amax(dim=2) > 1e-6).tolist() == [[False] + [True] * 5]


def test_empty_places_before_a_short_history_are_not_looked_at(tower):
    inputs, reads, seen = a_user(seen=3)
    dirty = reads.clone()
    dirty[:, :3] = torch.randn(3, 11)
    torch.testing.assert_close(tower(inputs, reads, seen)[0], tower(inputs, dirty, seen)[0])


def test_a_user_without_a_history_is_read_by_features_alone(tower):
    inputs, reads, seen = a_user(seen=0)
    query, _ = tower(inputs, reads, seen)
    other, _ = tower(inputs, reads + 3, seen)
    assert torch.isfinite(query).all()
    torch.testing.assert_close(query, other)
    assert not query[:, 8:11].any()  # nothing was co-played
    assert not torch.allclose(query, tower(inputs + 1, reads, seen)[0])


def test_coplays_of_the_watched_are_added_up_and_scaled_alike(tower):
    inputs, reads, seen = a_user()
    company = tower(inputs, reads, seen)[0][0, 8:11]
    total = reads[0, :, 8:].sum(dim=0)  # at first every place weighs as much
    gain = company / total
    torch.testing.assert_close(gain, gain[:1].expand(3))
    assert gain[0] > 0


def test_before_training_a_user_has_no_taste_and_coplays_and_the_popular_rank():
    query, following = UserTower(4, CONFIG).eval()(*a_user())
    assert not query[:, :8].any()
    assert not following.any()
    assert query[:, 8:].all()


def test_the_popular_never_repels(tower):
    inputs = torch.randn(200, 4) * 20
    query, _ = tower(inputs, torch.zeros(200, 6, 11), torch.zeros(200, 6, dtype=torch.bool))
    assert (query[:, 11:] >= 0).all()


def test_a_title_never_seen_in_training_has_the_vector_of_its_features():
    torch.manual_seed(0)
    tower = TitleTower(5, 3, CONFIG).eval()
    torch.nn.init.normal_(tower.identity.weight[1:])
    inputs = torch.randn(1, 5)
    new, _ = tower(inputs, torch.tensor([0]))
    expected = torch.nn.functional.normalize(tower.content(inputs), dim=-1)
    torch.testing.assert_close(new, expected)
    known, _ = tower(inputs, torch.tensor([2]))
    assert not torch.allclose(known, expected)
    np.testing.assert_allclose(known.detach().norm(dim=1), 1, atol=1e-6)


def test_the_id_vector_is_hidden_in_its_share_of_training_steps():
    config = CONFIG.model_copy(update={"cold_start": 0.2, "dropout": 0.0})
    tower = TitleTower(5, 1, config).train()
    torch.nn.init.constant_(tower.identity.weight[1:], 3.0)
    torch.manual_seed(0)
    inputs, row = torch.randn(1, 5).expand(4000, 5), torch.ones(4000, dtype=torch.long)
    vectors, _ = tower(inputs, row)
    unseen, _ = tower.eval()(inputs[:1], torch.zeros(1, dtype=torch.long))
    hidden = (vectors - unseen).abs().max(dim=1).values < 1e-6
    assert abs(hidden.float().mean().item() - 0.2) < 0.03  # four standard errors are .025
