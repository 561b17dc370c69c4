"""The loop itself, on a model small enough to be followed by hand."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import DamagedCheckpoint, OtherRun
from models.devices import Hardware
from models.fitting import Best, Diverged, Lesson, Notebook, Verdict, fit
from models.settings import RankerConfig

X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.1
SIZE, STEPS, RATE, DECAY = 8, 5, 0.05, 0.01
RUN = {"settings": "these", "data": "those"}


def pace(**settings):
    return RankerConfig(**{"epochs": 4, "patience": 4, "max_grad_norm": 0.3, "seed": 5} | settings)


def loss_of(network, batch):
    x, y = batch
    return ((network(x).squeeze(-1) - y) ** 2).mean()


def batches(rng, team):
    for rows in torch.split(torch.from_numpy(rng.permutation(len(X))), SIZE):
        yield X[team.share(rows)], Y[team.share(rows)]


def by_loss(network):
    with torch.inference_mode():
        value = loss_of(network, (X, Y)).item()
    return Verdict(-value, {"loss": value})


def scripted(scores, seen=None):
    """A judge with these scores, one an epoch; the weights that it saw go into `seen`."""
    left = iter(scores)

    def judge(network):
        if seen is not None:
            seen.append(network.weight.detach().clone())
        score = next(left)
        return Verdict(score, {"score": score})

    return judge


def lesson(judge=by_loss, loss=loss_of):
    adamw = partial(torch.optim.AdamW, lr=RATE, weight_decay=DECAY, fused=True)
    return Lesson(lambda network: adamw(network.parameters()), batches, STEPS, loss, judge)


def linear():
    network = nn.Linear(3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.3, -0.1, 0.2]]))
        network.bias.zero_()
    return network


def adamw_by_hand(settings, epochs):
    """Weights after so many epochs: AdamW as Loshchilov & Hutter 2019 write it, in float64, with gradients by hand."""
    theta, m, v, t = np.array([0.3, -0.1, 0.2, 0.0]), np.zeros(4), np.zeros(4), 0
    rows = np.column_stack([X.numpy().astype(np.float64), np.ones(len(X))])
    wanted, total = Y.numpy().astype(np.float64), settings.epochs * STEPS
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(X))
        for start in range(0, len(X), SIZE):
            x, y = rows[order[start : start + SIZE]], wanted[order[start : start + SIZE]]
            gradient = 2 * x.T @ (x @ theta - y) / SIZE
            gradient *= min(1.0, settings.max_grad_norm / np.linalg.norm(gradient))
            rate = RATE * (1 + math.cos(math.pi * t / total)) / 2
            t += 1
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            theta = theta * (1 - rate * DECAY)
            theta = theta - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta


@pytest.mark.parametrize("norm", [0.3, 100.0], ids=["clipped", "not clipped"])
def test_the_loop_takes_the_steps_of_adamw_on_a_cosine_with_clipped_gradients(norm):
    settings, network = pace(max_grad_norm=norm), linear()
    fit(network, lesson(scripted([1, 2, 3, 4])), settings, Hardware(), lambda _: None)
    found = np.append(network.weight.detach().numpy().ravel(), network.bias.item())
    np.testing.assert_allclose(found, adamw_by_hand(settings, 4), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [
        pytest.param([1, 3, 2, 2.5, 9], 2, 4, 2, id="two epochs no better: stop"),
        pytest.param([1, 3, 2, 4, 1, 1], 2, 6, 4, id="the count starts again at a better one"),
        pytest.param([3, 3, 9], 1, 2, 1, id="as good is not better"),
        pytest.param([-9, -8, -7, -6, -5, -4], 1, 6, 6, id="always better: the last epoch is the end"),
        pytest.param([-5], 1, 1, 1, id="one epoch"),
    ],
)
def test_training_stops_after_patience_and_keeps_the_best_weights(scores, patience, epochs, best):
    told, seen, network = [], [], linear()
    settings = pace(epochs=len(scores) if len(scores) != 5 else 5, patience=patience)
    found = fit(network, lesson(scripted(scores, seen)), settings, Hardware(), told.append)
    assert [epoch.number for epoch in told] == list(range(1, epochs + 1))
    assert torch.equal(network.weight, seen[best - 1])
    assert found == Best(best, Verdict(scores[best - 1], {"score": scores[best - 1]}))
    assert not network.training


def test_progress_tells_the_mean_loss_over_the_steps_and_what_validation_said():
    told, network = [], linear()
    fit(network, lesson(), pace(epochs=1), Hardware(), told.append)
    losses, twin = [], linear()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for x, y in batches(np.random.default_rng([5, 1]), Hardware().team):
        loss = loss_of(twin, (x, y))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.3)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    (epoch,) = told
    assert (epoch.number, epoch.of, epoch.resumed) == (1, 1, False)
    assert epoch.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert epoch.metrics == {"loss": pytest.approx(by_loss(twin).metrics["loss"], rel=1e-6)}


def test_every_epoch_and_every_seed_has_an_order_and_a_dropout_of_its_own():
    def drawn(seed):
        seen = []

        def loss(network, batch):
            seen.append((batch[0].numpy().tobytes(), torch.rand(1).item()))
            return loss_of(network, batch)

        fit(linear(), lesson(scripted([1, 2]), loss), pace(epochs=2, seed=seed), Hardware(), lambda _: None)
        return seen

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again
    assert len({one for run in (first, other) for one in run}) == 20
    assert len({number for run in (first, other) for _, number in run}) == 20


@pytest.mark.parametrize("name", ["loss", "validation score"])
def test_a_training_that_diverges_is_an_error_that_says_when_and_what(name):
    broken = lambda network, batch: loss_of(network, batch) * float("nan")  # noqa: E731
    one = lesson(scripted([1, float("nan"), 2])) if name != "loss" else lesson(by_loss, broken)
    with pytest.raises(Diverged, match=f"in epoch {2 if name != 'loss' else 1} the {name} is nan"):
        fit(linear(), one, pace(), Hardware(), lambda _: None)


class Killed(BaseException):
    """Stands for the end of the process."""


def interrupted_after(number, path, judge=by_loss, settings=None):
    def die(epoch):
        if epoch.number == number:
            raise Killed

    with pytest.raises(Killed):
        fit(linear(), lesson(judge), settings or pace(), Hardware(), die, Notebook(path, RUN))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_training_goes_on_where_the_notebook_says_and_ends_with_the_same_bits(number, tmp_path):
    told, whole, rest = [], linear(), linear()
    expected = fit(whole, lesson(), pace(), Hardware(), told.append)
    interrupted_after(number, tmp_path / "c")
    heard = []
    found = fit(rest, lesson(), pace(), Hardware(), heard.append, Notebook(tmp_path / "c", RUN))
    assert found == expected
    assert rest.weight.detach().numpy().tobytes() == whole.weight.detach().numpy().tobytes()
    assert rest.bias.item() == whole.bias.item()
    assert heard[0].resumed
    assert [vars(epoch) | {"resumed": False} for epoch in heard] == [vars(e) for e in told[number - 1 :]]


def test_the_best_so_far_and_the_patience_that_is_left_survive(tmp_path):
    settings, seen = pace(epochs=9, patience=3), []
    fit(linear(), lesson(scripted([5, 9, 1, 2, 3], seen)), settings, Hardware(), lambda _: None)
    interrupted_after(4, tmp_path / "c", scripted([5, 9, 1, 2]), settings)
    told, network = [], linear()
    found = fit(network, lesson(scripted([3, 99])), settings, Hardware(), told.append, Notebook(tmp_path / "c", RUN))  # fmt: skip
    assert [epoch.number for epoch in told] == [4, 5]
    assert (found.epoch, found.verdict.score) == (2, 9)
    assert torch.equal(network.weight, seen[1])


def test_without_a_judge_the_last_epoch_is_the_best():
    told, network = [], linear()
    one = replace(lesson(), judge=None)
    assert fit(network, one, pace(epochs=3, patience=1), Hardware(), told.append).epoch == 3
    assert [epoch.metrics for epoch in told] == [{}, {}, {}]


def test_the_average_follows_the_weights_step_by_step():
    steps, network = [], linear()
    twin = linear()

    def seen(model, batch):
        steps.append(model.weight.detach().clone())
        return loss_of(model, batch)

    fit(
        network,
        replace(lesson(scripted([1, 2]), seen), averaging=0.9),
        pace(epochs=2),
        Hardware(),
        lambda _: None,
    )
    plain = linear()
    fit(plain, lesson(scripted([1, 2])), pace(epochs=2), Hardware(), lambda _: None)
    mean = twin.weight.detach().clone()  # steps[n] are the weights before step n + 1
    for number, weight in enumerate([*steps[1:], plain.weight.detach()], start=1):
        kept = min(0.9, number / (10 + number))
        mean = kept * mean + (1 - kept) * weight
    torch.testing.assert_close(network.weight.detach(), mean)


def test_an_interrupted_average_goes_on_as_it_would_have(tmp_path):
    whole, rest = linear(), linear()
    averaged = replace(lesson(), averaging=0.9)
    fit(whole, averaged, pace(epochs=4), Hardware(), lambda _: None)

    def die(epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(linear(), averaged, pace(epochs=4), Hardware(), die, Notebook(tmp_path / "c", RUN))
    fit(rest, averaged, pace(epochs=4), Hardware(), lambda _: None, Notebook(tmp_path / "c", RUN))
    assert torch.equal(whole.weight, rest.weight)


def test_a_finished_training_is_not_trained_again(tmp_path):
    notebook = Notebook(tmp_path / "c", RUN)
    first = fit(linear(), lesson(), pace(), Hardware(), lambda _: None, notebook)
    again = linear()
    told = []
    assert fit(again, lesson(scripted([])), pace(), Hardware(), told.append, notebook) == first
    assert [epoch.number for epoch in told] == [4]


def test_a_notebook_of_another_run_is_refused_with_what_differs(tmp_path):
    interrupted_after(1, tmp_path / "c")
    other = Notebook(tmp_path / "c", RUN | {"data": "newer"})
    with pytest.raises(OtherRun, match=r"another training \(data those there, newer here\).*remove it"):
        fit(linear(), lesson(), pace(), Hardware(), lambda _: None, other)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"half"], ids=["empty", "zeros", "text"])
def test_a_damaged_notebook_is_refused_and_not_taken_for_none(content, tmp_path):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match="remove it to begin anew"):
        fit(linear(), lesson(), pace(), Hardware(), lambda _: None, Notebook(tmp_path / "c", RUN))


def test_a_notebook_cut_short_is_refused(tmp_path):
    interrupted_after(1, tmp_path / "c")
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole[:-1])
    with pytest.raises(DamagedCheckpoint):
        fit(linear(), lesson(), pace(), Hardware(), lambda _: None, Notebook(tmp_path / "c", RUN))


@pytest.mark.parametrize(("low", "near"), [(torch.bfloat16, 0.02), (torch.float16, 0.01)], ids=["bfloat16", "float16"])  # fmt: skip
def test_lower_precision_follows_the_curve_of_float32(low, near):
    curves = []
    for hardware in (Hardware(), Hardware(low=low)):
        told, kinds = [], set()

        def loss(network, batch, kinds=kinds):
            kinds.add(network(batch[0]).dtype)
            return loss_of(network, batch)

        fit(linear(), lesson(by_loss, loss), pace(max_grad_norm=1.0), hardware, told.append)
        assert kinds == {hardware.low or torch.float32}
        curves.append([epoch.loss for epoch in told])
    np.testing.assert_allclose(curves[1], curves[0], rtol=near)
    assert curves[1] != curves[0]
