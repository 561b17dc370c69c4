"""What the members of a team compute of a batch adds up to the batch; here one process plays each of them in turn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.devices import Hardware
from models.fitting import Verdict
from models.inputs import fit_standardiser
from models.network import RankerNetwork
from models.parallel import Team
from models.ranking_batches import rows_of
from models.train_ranker import heads_in
from models.train_ranker import lesson_of as ranking_lesson
from models.train_retrieval import lesson_of as retrieval_lesson
from models.train_retrieval import new_towers


@pytest.fixture
def ranking(rows, ranker_config):
    config = ranker_config.model_copy(update={"dropout": 0.0, "rows_per_batch": 37})
    data = rows(200, seed=0)
    few = np.where(np.arange(200) % 9 == 0, data.retention, np.float32("nan"))  # few are known, unevenly
    data = replace(data, retention=few.astype(np.float32))
    standardiser = fit_standardiser(data.features)
    torch.manual_seed(0)
    read = rows_of(data, standardiser, config)
    network = RankerNetwork(standardiser.width, heads_in(read), config)
    return network, ranking_lesson(read, read, network.heads, config)


@pytest.fixture
def retrieval(periods, retrieval_config):
    config = retrieval_config.model_copy(
        update={"dropout": 0.0, "cold_start": 0.0, "negatives": 50, "users_per_batch": 41}
    )
    torch.manual_seed(0)
    towers = new_towers(periods[:2], config)
    nn.init.normal_(towers.title.identity.weight)
    network = nn.ModuleDict({"user": towers.user, "title": towers.title})
    return network, retrieval_lesson(towers, periods[:2], lambda _: Verdict(0.0, {}), Hardware())


def gradients(network, lesson, team):
    """Loss and gradient, in float64, of each batch of an epoch as this member sees it."""
    for batch in lesson.batches(np.random.default_rng(3), team):
        network.zero_grad(set_to_none=True)
        loss = lesson.loss(network, batch)
        if loss.requires_grad:
            loss.backward()
        yield loss.item(), torch.cat([
            (torch.zeros_like(w) if w.grad is None else w.grad).flatten().double() for w in network.parameters()
        ])  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 50])
@pytest.mark.parametrize("what", ["ranking", "retrieval"])
def test_the_parts_of_a_batch_add_up_to_its_loss_and_its_gradient(what, size, request):
    network, lesson = request.getfixturevalue(what)
    network.train()
    whole = list(gradients(network, lesson, Team()))
    members = [list(gradients(network, lesson, Team(rank, size))) for rank in range(size)]
    assert len(whole) == lesson.steps
    for (loss, gradient), *parts in zip(whole, *members, strict=True):
        assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-5)
        total = sum(part for _, part in parts)
        assert (total - gradient).norm() < 1e-5 * gradient.norm()


def test_every_row_is_trained_on_once_an_epoch_by_one_member(ranking):
    _, lesson = ranking
    seen = [
        batch.inputs for rank in range(3) for batch in lesson.batches(np.random.default_rng(0), Team(rank, 3))
    ]
    rows = torch.cat(seen)
    alone = torch.cat([batch.inputs for batch in lesson.batches(np.random.default_rng(1), Team())])
    assert len(rows) == len(alone) == 200
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, alone.tolist()))


def test_rows_in_a_file_train_the_same_ranker_as_rows_in_memory(rows, fit_ranker, tmp_path):
    training, validation = rows(1500, seed=0), rows(800, seed=1, period=1)
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=training.features.shape)
    mapped[:] = training.features
    digests = [
        fit_ranker(data, validation, epochs=2, max_rows=1000).save(tmp_path / str(n))
        for n, data in enumerate((training, replace(training, features=mapped)))
    ]
    assert digests[0] == digests[1]
