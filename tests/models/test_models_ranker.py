import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import spearmanr

from models import artifact
from models.artifact import ArtifactError, digest
from models.choice import choice_loss
from models.data import MalformedData, RankingSet
from models.devices import Hardware
from models.evaluate import evaluate_ranking
from models.inputs import WrongWidth, fit_standardiser
from models.network import RankerNetwork
from models.parallel import Team
from models.ranker import Ranker
from models.ranking_batches import Lists, lists_of, rows_of
from models.settings import RankerConfig
from models.train_ranker import (
    Choices,
    Study,
    _judged,
    batch_loss,
    inputs_of,
    lesson_of,
    train_ranker,
)


@pytest.fixture(scope="module")
def test_rows(rows):
    return rows(4000, seed=2, period=2)


def test_every_head_tells_what_will_happen_from_what_will_not(ranker, test_rows):
    metrics = evaluate_ranking(ranker, test_rows)
    assert ranker.heads == ("play", "completion", "retention")
    assert metrics["play_auc"] > 0.84  # the chance itself, which no model can beat, reaches .87
    assert metrics["completion_auc"] > 0.9
    assert metrics["retention_auc"] > 0.72  # of at most .78


def test_every_head_is_calibrated(ranker, test_rows):
    metrics = evaluate_ranking(ranker, test_rows)
    assert {head: metrics[f"{head}_ece"] < 0.035 for head in ranker.heads} == dict.fromkeys(
        ranker.heads, True
    )


def test_one_body_for_all_heads_learns_too(rows, fit_ranker, test_rows):
    model = fit_ranker(rows(8000, seed=0), rows(3000, seed=1, period=1), architecture="shared_bottom")
    assert evaluate_ranking(model, test_rows)["play_auc"] > 0.84


def test_each_head_heeds_the_features_that_serve_it_more_than_others(rows, fit_ranker):
    """Half of 24 features are noise that stands in no outcome; heeded less, they harm less in all three."""

    def noisy(n, seed, period=0):
        data = rows(n, seed=seed, period=period)
        noise = np.random.default_rng(seed + 90).normal(size=(n, 12)).astype(np.float32)
        return replace(data, features=np.concatenate([data.features, noise], axis=1))

    parts, test = (noisy(3000, 0), noisy(2000, 1, 1)), noisy(4000, 2, 2)
    shadowed, plain = fit_ranker(*parts, shadow_weight=8.0), fit_ranker(*parts, shadow_weight=0.0)
    harm = [evaluate_ranking(one, test) for one in (shadowed, plain)]
    decisive = {"play": [0, 1, 2], "completion": [3], "retention": [4]}  # as the rows' world has it
    for k, head in enumerate(shadowed.heads):
        assert harm[0][f"{head}_log_loss"] < harm[1][f"{head}_log_loss"]
        heed, without = (_reading(one, k) for one in (shadowed, plain))
        ratio = heed[decisive[head]].min() / heed[12:].mean()
        assert ratio > 2 * without[decisive[head]].min() / without[12:].mean()


def _reading(ranker, k):
    """How much a head's body reads each of 24 features: the length of its weights."""
    body = ranker.network.entrance.first.weight.detach().numpy()[16 * k : 16 * k + 16, :24]
    return np.linalg.norm(body, axis=0)


def test_a_rows_shadow_is_another_users_row_behind_its_own(rows, ranker_config):
    data, some = rows(60, seed=0), torch.tensor([3, 50, 7])
    inputs = inputs_of(data, ranker_config)
    chosen = np.arange(5, 60)
    read = rows_of(data, inputs, ranker_config, chosen)
    beside = read.shadowed(np.random.default_rng(0))
    both, alone = beside.some(some).inputs, read.some(some).inputs
    assert torch.equal(both[:, : inputs.width], alone)
    of = beside.shadow[some.numpy()]
    assert np.array_equal(both[:, inputs.width :].numpy(), inputs.transform(data.features[of]))
    assert (data.user_id[of] != data.user_id[chosen[some.numpy()]]).all()
    assert np.array_equal(beside.readings % 24, np.concatenate([inputs.readings, inputs.readings]))
    assert (beside.readings // 24).tolist() == [0] * inputs.width + [1] * inputs.width


def test_what_is_chosen_is_told_by_all_features_alike(rows, choices, ranker_config):
    """Beside shadows nothing of choosing is learnt, so nothing is known of it to heed features by."""
    data = rows(300, seed=0)
    inputs = inputs_of(data, ranker_config)
    read = rows_of(data, inputs, ranker_config)
    study = Study(read, lists_of(choices(n=40).train, inputs), ("play", "choice"), ranker_config, read)
    beside = study.shadowed(np.random.default_rng(0))
    assert (beside.heads, beside.taught, beside.validation) == (("play",), None, None)
    assert list(beside.told(beside.made())) == ["play"]
    (said,) = beside.told(beside.made()).values()
    assert said.shape == (2, 2, 12)
    _, network = study.learnt(Hardware(), lambda _: None, None)
    assert network.entrance.first.share is None
    chooses = network.entrance.first.weight[ranker_config.hidden :]
    assert bool((chooses[:, :12] != 0).all())


def test_pieces_in_which_no_head_finds_more_than_chance_are_not_read(rows, fit_ranker, choices):
    """Feature 0 decides plays by its size alone, which no straight line says; completion goes by another, straight."""

    def bent(n, seed, period=0):
        data = rows(n, seed=seed, period=period)
        play = (np.abs(data.features[:, 0]) > 0.7).astype(np.float32)
        return replace(data, play=play, retention=np.full(n, np.nan, np.float32))

    parts, lists = (bent(4_000, 0), bent(2_000, 1, 1)), choices(n=60)
    every = fit_ranker(*parts, choices=lists, shadow_weight=0.0)
    some = fit_ranker(*parts, choices=lists)
    assert 0 in some.inputs.pieces.column
    assert set(some.inputs.pieces.column) <= set(every.inputs.pieces.column)
    assert some.network.entrance.first.in_features == some.inputs.width
    none = fit_ranker(*parts, choices=lists, shadow_weight=1e12)
    assert len(none.inputs.pieces) == 0
    assert none.network.entrance.first.in_features == none.inputs.width < some.inputs.width


def test_shadows_are_asked_nothing_of_a_later_period(rows, choices, sign):
    """What the training beside shadows comes to is the same whatever validation says."""
    losses = []
    for seed in (1, 5):
        told = []
        config = RankerConfig(hidden=8, output=4, tower=4, epochs=2)
        later = rows(700, seed=seed, period=1)
        train_ranker(rows(900, seed=0), later, config, sign(12), told.append, choices(n=60))
        losses.append([epoch.loss for epoch in told[:2]])
        assert [bool(epoch.metrics) for epoch in told] == [False, False, True, True][: len(told)]
    assert losses[0] == losses[1]


def test_epochs_are_counted_through_all_trainings(rows, sign):
    told = []
    config = RankerConfig(hidden=4, output=4, tower=4, epochs=2, patience=2)
    train_ranker(rows(500, seed=0), rows(500, seed=1, period=1), config, sign(12), told.append)
    assert [(epoch.number, epoch.of) for epoch in told] == [(n, 4) for n in range(1, 5)]


@pytest.mark.parametrize("stops", [(1, 2), (3,)])
def test_a_training_stopped_in_any_part_ends_with_the_bytes_of_one_that_was_not(rows, sign, tmp_path, stops):
    """Trainings of two epochs, first beside shadows: one stops within that and after it, one in the second."""
    config = RankerConfig(hidden=4, output=4, tower=4, epochs=2, patience=2)
    arguments = rows(500, seed=0), rows(500, seed=1, period=1), config, sign(12)
    expected = train_ranker(*arguments).save(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(_Stopped):
            train_ranker(
                *arguments, partial(_stop_after, stop), checkpoint=tmp_path / "kept" / "c.safetensors"
            )
    again = train_ranker(*arguments, checkpoint=tmp_path / "kept" / "c.safetensors")
    assert again.save(tmp_path / "again") == expected
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "c.safetensors",
        "c-1.safetensors",
    }


class _Stopped(Exception):
    pass


def _stop_after(number, epoch):
    if epoch.number == number and not epoch.resumed:
        raise _Stopped


def test_rankers_trained_on_shuffled_labels_score_like_chance(rows, fit_ranker, test_rows):
    def shuffled(data, rng):
        return replace(data, play=rng.permutation(data.play), retention=rng.permutation(data.retention))

    found = {"play_auc": [], "retention_auc": []}
    for seed in range(16):
        rng = np.random.default_rng(seed)
        data = shuffled(rows(1500, seed=0), rng), shuffled(rows(800, seed=1, period=1), rng)
        metrics = evaluate_ranking(fit_ranker(*data, epochs=1, seed=seed), test_rows)
        for name, values in found.items():
            values.append(metrics[name])
    for values in found.values():  # a network fitted to noise points anywhere, so one may be lucky
        assert abs(np.mean(values) - 0.5) < 3 * np.std(values) / np.sqrt(16)
        assert np.std(values) < 0.15


def test_a_source_without_labels_of_an_outcome_has_no_head_for_it(rows, fit_ranker, test_rows):
    unknown = lambda data: replace(data, retention=np.full(len(data), np.nan, np.float32))  # noqa: E731
    model = fit_ranker(unknown(rows(2000, seed=0)), unknown(rows(1000, seed=1, period=1)), epochs=1)
    assert model.heads == ("play", "completion")
    assert model.score(test_rows.features[:5]).retention is None
    assert not [name for name in model.network.state_dict() if "retention" in name]


def test_an_outcome_that_is_the_same_for_all_teaches_nothing_and_has_no_head(rows, fit_ranker):
    same = lambda data: replace(data, retention=np.zeros(len(data), np.float32))  # noqa: E731
    model = fit_ranker(same(rows(2000, seed=0)), same(rows(1000, seed=1, period=1)), epochs=1)
    assert "retention" not in model.heads


def test_completion_of_titles_that_were_not_played_is_never_learnt(rows, fit_ranker):
    training, validation = rows(2000, seed=0), rows(1000, seed=1, period=1)
    wild = replace(training, completion=np.where(training.play > 0, training.completion, np.float32(0.0)))
    models = [fit_ranker(data, validation, epochs=1) for data in (training, wild)]
    scores = [model.score(validation.features).completion for model in models]
    assert np.array_equal(*scores)


def test_a_position_in_the_log_does_not_pass_for_merit(rows, fit_ranker):
    """The examination curve falls by 0.4 in logits a place; titles are scored as if all stood first."""
    training = rows(12_000, seed=3, position_effect=0.4)
    model = fit_ranker(training, rows(4000, seed=4, period=1, position_effect=0.4))
    slope = np.polyfit(np.arange(10), examination(model, 10), 1)[0]
    assert slope == pytest.approx(-0.4, abs=0.1)
    features = training.features[:300]
    served = model.score(features)
    first = model.score(features, np.zeros(300, np.float32))
    tenth = model.score(features, np.full(300, 9, np.float32))
    assert np.array_equal(served.play, first.play)
    assert (tenth.play < first.play).all()
    assert np.array_equal(served.retention, tenth.retention)


def test_a_place_where_only_the_wanted_are_played_does_not_pass_for_a_titles_being_completed(fit_ranker):
    """Who plays and who completes want the same, unseen; so in places that few look at more of the plays are completed."""
    training, validation = (chosen_and_completed(n, seed, seed) for n, seed in ((30_000, 0), (8_000, 1)))
    model = fit_ranker(training, validation)
    rates = [
        training.completion[(training.play > 0) & (training.position == place)].mean() for place in (0, 9)
    ]
    assert rates[1] > rates[0] + 0.1
    features = np.zeros((2, 12), np.float32)
    first, tenth = model.score(features, np.array([0, 9], np.float32)).completion
    assert tenth - first == pytest.approx(rates[1] - rates[0], abs=0.05)
    assert np.array_equal(model.score(features).completion, [first, first])


def chosen_and_completed(n, seed, period):
    """Plays and completions by one liking that no feature tells, in ten places each of which asks for more of it."""
    rng = np.random.default_rng(seed)
    position, liking = rng.integers(0, 10, n), rng.normal(size=n)
    play = liking + rng.normal(size=n) > 0.25 * position
    completion = (liking + 0.5 * rng.normal(size=n) > 0).astype(np.float32)
    unknown = np.full(n, np.nan, np.float32)
    return RankingSet(
        rng.normal(size=(n, 12)).astype(np.float32), play.astype(np.float32), np.where(play, completion, unknown), unknown,
        position.astype(np.float32), rng.integers(0, 50, n), np.arange(n), np.full(n, period),
    )  # fmt: skip


def test_a_ranker_saved_when_there_were_other_settings_can_be_loaded_and_trained_again(ranker, tmp_path):
    """What a recorded config does not name came later, and that training went without it."""
    now = ranker.config.model_dump(mode="json")
    then = {name: value for name, value in now.items() if name not in {"bent", "tails", "shadow_weight"}}
    config = RankerConfig.recorded({**then, "halvings": 0})
    assert config == ranker.config.model_copy(update={"bent": 0, "tails": 0.0, "shadow_weight": 0.0})
    assert RankerConfig.recorded(now) == ranker.config
    with pytest.raises(ValidationError, match="halvings"):
        RankerConfig.recorded({**then, "halvings": 3})
    ranker.save(tmp_path / "old")
    _rewritten(tmp_path / "old", {**then, "halvings": 0})
    again = Ranker.load(tmp_path / "old")
    assert again.config == config
    features = np.ones((3, 12), np.float32)
    assert np.array_equal(again.score(features).play, ranker.score(features).play)


def _rewritten(folder, config):
    """The artifact with another config, as another version of this library would have written it."""
    found = artifact.load(folder, "ranker")
    shutil.rmtree(folder)
    artifact.save(replace(found, documents={**found.documents, "config": config}), folder)


def test_a_ranker_that_was_saved_before_places_said_anything_of_completion_can_be_loaded(
    ranker, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.nn.Module, "state_dict", _without_selection(torch.nn.Module.state_dict))
    ranker.save(tmp_path / "old")
    again = Ranker.load(tmp_path / "old")
    assert not again.network.selection.weight.any()
    assert torch.equal(again.network.examination.weight, ranker.network.examination.weight)


def _without_selection(state_dict):
    def before(module, *args, **kwargs):
        return {
            name: value
            for name, value in state_dict(module, *args, **kwargs).items()
            if name != "selection.weight"
        }

    return before


def examination(model, places):
    """What each place adds to the play logit."""
    return model.network.examination.weight.detach().numpy().ravel()[1 : places + 1]


SEEN = 1 / (1 + np.arange(12)) ** 0.7
"""The chance that a place is looked at, of the click models below."""


def in_odds(merit, seen):
    """Being seen less multiplies the odds of a click."""
    odds = seen * merit / (1 - merit)
    return odds / (1 + odds)


def in_chances(merit, seen):
    """The position-based model (Richardson et al. 2007): looked at, and wanted if looked at."""
    return seen * merit


def clicked(n, seed, period=0, model=in_odds):
    """Clicks, and the merit that no one sees.

    A policy that knew something put the better titles first, so a place's click rate says both how much it is seen
    and what stands there.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 12)).astype(np.float32)
    merit = 1 / (1 + np.exp(-(1.2 * features[:, 0] + 0.8 * features[:, 1] - 2.5)))
    order = np.argsort(-(features[:, 0] + rng.normal(size=n)).reshape(-1, len(SEEN)), axis=1)
    position = np.argsort(order, axis=1).ravel()
    play = (rng.random(n) < model(merit, SEEN[position])).astype(np.float32)
    unknown = np.full(n, np.nan, np.float32)
    rows = RankingSet(
        features, play, unknown, unknown, position.astype(np.float32),
        rng.integers(0, 50, n), np.arange(n), np.full(n, period),
    )  # fmt: skip
    return rows, merit


@pytest.mark.parametrize(("model", "error"), [(in_odds, 0.05), (in_chances, 0.12)])
def test_what_is_learnt_of_places_is_how_much_they_are_looked_at(fit_ranker, model, error):
    """The term is one of logits: right where odds multiply, and too steep where chances do and merit is not small."""
    training, validation = clicked(36_000, 0, 0, model)[0], clicked(12_000, 1, 1, model)[0]
    found = examination(fit_ranker(training, validation, dropout=0.0), len(SEEN))
    curve = np.exp(found - found[0])
    assert np.corrcoef(np.log(curve), np.log(SEEN))[0, 1] > 0.97
    rate = np.array([training.play[training.position == place].mean() for place in range(len(SEEN))])
    counting = np.abs(rate / rate[0] - SEEN).mean()
    assert np.abs(curve - SEEN).mean() < min(error, counting)


@pytest.mark.parametrize("model", [in_odds, in_chances])
def test_merit_is_ranked_as_if_every_place_were_looked_at_alike(fit_ranker, model):
    """Merit leans 1.2 to .8 on its two features; of the first the policy's own preference must not be added."""
    training, validation = clicked(36_000, 0, 0, model)[0], clicked(12_000, 1, 1, model)[0]
    fresh, merit = clicked(6_000, 2, 2, model)
    blind = [
        replace(rows, position=np.full(len(rows), np.nan, np.float32)) for rows in (training, validation)
    ]
    # wide and in large batches, so that less of the order is chance
    sizes = {"hidden": 48, "output": 16, "tower": 16, "rows_per_batch": 1024}
    aware, unaware = (
        fit_ranker(*data, dropout=0.0, **sizes).score(fresh.features).play
        for data in ((training, validation), blind)
    )
    assert spearmanr(aware, merit)[0] > max(0.97, spearmanr(unaware, merit)[0])
    assert lean(aware, fresh.features) == pytest.approx(1.5, abs=0.2)
    assert lean(unaware, fresh.features) > 1.8


def lean(play, features):
    """How many times as much the first feature counts as the second, in logits."""
    z = np.log(play / (1 - play)).astype(np.float64)
    weights, *_ = np.linalg.lstsq(np.column_stack([features[:, :2], np.ones(len(z))]), z, rcond=None)
    return weights[0] / weights[1]


def test_a_log_without_positions_is_served_without(rows, fit_ranker, tmp_path):
    unknown = lambda data: replace(data, position=np.full(len(data), np.nan, np.float32))  # noqa: E731
    model = fit_ranker(unknown(rows(2000, seed=0)), unknown(rows(1000, seed=1, period=1)), epochs=1)
    assert np.isnan(model.serving_position)
    model.save(tmp_path / "m")
    assert np.isnan(Ranker.load(tmp_path / "m").serving_position)


def test_a_saved_ranker_comes_back_bit_for_bit(ranker, test_rows, tmp_path):
    identity = ranker.save(tmp_path / "m")
    loaded = Ranker.load(tmp_path / "m")
    mine, theirs = ranker.score(test_rows.features), loaded.score(test_rows.features)
    for head in ranker.heads:
        assert getattr(mine, head).tobytes() == getattr(theirs, head).tobytes()
    assert loaded.save(tmp_path / "again") == identity == digest(tmp_path / "again")
    assert loaded.metrics == ranker.metrics


def test_the_same_seed_trains_the_same_bits_and_another_seed_others(rows, fit_ranker, tmp_path):
    training, validation = rows(1500, seed=0), rows(800, seed=1, period=1)
    digests = [
        fit_ranker(training, validation, epochs=2, seed=seed, max_rows=1000).save(tmp_path / str(n))
        for n, seed in enumerate((5, 5, 6))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_training_leaves_the_callers_random_state_alone(rows, fit_ranker):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit_ranker(rows(500, seed=0), rows(500, seed=1, period=1), epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_title_has_the_same_score_alone_and_among_others(ranker, test_rows):
    together = ranker.score(test_rows.features[:200]).play
    alone = [ranker.score(test_rows.features[[row]]).play[0] for row in range(20)]
    np.testing.assert_allclose(alone, together[:20], rtol=1e-5)


def test_the_network_of_the_epoch_with_the_least_validation_loss_is_kept(rows, sign, choices):
    """Sixty rows are learnt by heart at once, and what comes after does harm."""
    few, validation, lists = rows(60, seed=0), rows(1000, seed=1, period=1), choices(n=40)
    config = RankerConfig(
        hidden=16, output=8, tower=8, epochs=30, patience=30, learning_rate=2e-2, shadow_weight=0
    )
    losses = []
    kept = train_ranker(
        few, validation, config, sign(12), lambda epoch: losses.append(epoch.metrics["loss"]), lists
    )
    weights = {head: getattr(config, f"{head}_weight") for head in kept.heads}
    held_out, choose_from = rows_of(validation, kept.inputs, config), lists_of(lists.validation, kept.inputs)
    assert -_judged(kept.network, held_out, choose_from, weights).score == pytest.approx(
        min(losses), rel=1e-5
    )
    assert min(losses) < losses[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"play": np.zeros(500, np.float32)}, "both plays and titles passed over", id="no plays"),
        pytest.param({"features": np.zeros((500, 5), np.float32)}, "signature names", id="width"),
        pytest.param({"period": np.full(500, 1)}, "one time split parts them", id="time"),
    ],
)
def test_rows_that_cannot_train_a_ranker_are_refused(rows, sign, change, message):
    training = replace(rows(500, seed=0), **change)
    with pytest.raises(MalformedData, match=message):
        train_ranker(training, rows(500, seed=1, period=1), RankerConfig(), sign(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"play": np.full(50, np.nan, np.float32)}, "play holds NaN", id="unknown play"),
        pytest.param({"completion": np.full(50, 1.5, np.float32)}, "completion leaves 0..1", id="share"),
        pytest.param({"title_id": np.arange(49)}, "title_id has 49 rows", id="ragged"),
    ],
)
def test_malformed_rows_are_refused(rows, change, message):
    with pytest.raises(MalformedData, match=message):
        replace(rows(50, seed=0), **change)


def test_features_of_another_width_are_refused(ranker):
    with pytest.raises(WrongWidth):
        ranker.score(np.zeros((3, 11), np.float32))


def test_a_ranker_does_not_load_as_anything_else(ranker, tmp_path):
    from models.retrieval import Retriever

    ranker.save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="holds a ranker, not a retriever"):
        Retriever.load(tmp_path / "m")


def test_what_is_chosen_is_told_by_features_and_retrieval_score_together(rows, fit_ranker, choices):
    """Chosen by 2·x₀ + r: the network can know the first, only the retriever the second."""
    lists = choices(n=3000, known=1.0)
    model = fit_ranker(rows(8000, seed=0), rows(1000, seed=1, period=1), lists, choice_weight=1.0)
    assert model.heads == ("play", "completion", "retention", "choice")
    assert model.fusion.retrieval == pytest.approx(1.0, abs=0.2)
    valid = lists.validation
    first = {
        "both": np.mean([best(model.score(x, retrieval=r).choice) for x, r in pairs(valid)]),
        "network": np.mean([best(model.logits(x)["choice"]) for x, _ in pairs(valid)]),
        "retriever": np.mean([best(r) for _, r in pairs(valid)]),
        "truth": np.mean([best(2 * x[:, 0] + r) for x, r in pairs(valid)]),
    }
    assert first["both"] > 0.9 * first["truth"]
    assert first["both"] > first["network"] > first["retriever"] + 0.1


def best(scores):
    """Whether the title that was played has the highest score."""
    return np.argmax(scores) == 0


def pairs(lists):
    return zip(lists.features, lists.retrieval, strict=True)


def test_a_retriever_that_knows_nothing_has_no_say(rows, fit_ranker, choices):
    model = fit_ranker(rows(2000, seed=0), rows(1000, seed=1, period=1), choices(known=0.0), epochs=2)
    assert model.fusion.retrieval < 0.15


def test_choice_is_answered_where_retrieval_scores_are_given_and_is_not_among_labels(
    rows, fit_ranker, choices, test_rows
):
    model = fit_ranker(rows(1000, seed=0), rows(500, seed=1, period=1), choices(n=100), epochs=1)
    features = test_rows.features[:9]
    assert model.score(features).choice is None
    with_choice = model.score(features, retrieval=np.arange(9, dtype=np.float32))
    assert with_choice.choice.shape == (9,)
    assert np.array_equal(with_choice.play, model.score(features).play)
    assert not [name for name in evaluate_ranking(model, test_rows) if name.startswith("choice")]
    with pytest.raises(MalformedData, match="finite retrieval scores"):
        model.score(features, retrieval=np.zeros(8, np.float32))


def test_a_ranker_that_chooses_comes_back_bit_for_bit(rows, fit_ranker, choices, test_rows, tmp_path):
    model = fit_ranker(
        rows(1000, seed=0),
        rows(500, seed=1, period=1),
        choices(n=100),
        epochs=1,
        architecture="ple",
        levels=2,
    )
    model = replace(model, about={"f": "user"})
    identity = model.save(tmp_path / "m")
    loaded = Ranker.load(tmp_path / "m")
    scores = np.linspace(-1, 1, 20, dtype=np.float32)
    mine, theirs = (m.score(test_rows.features[:20], retrieval=scores) for m in (model, loaded))
    for head in model.heads:
        assert getattr(mine, head).tobytes() == getattr(theirs, head).tobytes()
    assert (loaded.fusion, loaded.about) == (model.fusion, {"f": "user"})
    assert loaded.save(tmp_path / "again") == identity


def test_with_lists_too_the_same_seed_trains_the_same_bits(rows, fit_ranker, choices, tmp_path):
    data = rows(1000, seed=0), rows(500, seed=1, period=1), choices(n=100)
    digests = [fit_ranker(*data, epochs=2, architecture="ple").save(tmp_path / str(n)) for n in range(2)]
    assert digests[0] == digests[1]


def testlists_of_another_width_are_refused(rows, fit_ranker, choices):
    lists = choices(n=10)
    narrow = replace(lists.validation, features=lists.validation.features[:, :, :5])
    with pytest.raises(MalformedData, match="validation lists"):
        fit_ranker(rows(500, seed=0), rows(500, seed=1, period=1), Choices(lists.train, narrow))


def test_every_row_and_every_list_is_met_once_in_an_epoch(rows, sign):
    data, config = rows(25, seed=0), RankerConfig(rows_per_batch=4)
    inputs = fit_standardiser(data.features)
    lists = Lists(torch.arange(11.0).view(11, 1, 1).expand(-1, 3, 1), torch.zeros(11, 3))
    taught = rows_of(data, inputs, config)
    lesson = lesson_of(taught, taught, ("play", "choice"), config, lists, lists)
    parts = list(lesson.batches(np.random.default_rng(0), Team()))
    assert [len(part.place) for part in parts] == [4] * 6 + [1]
    met = torch.cat([part.inputs for part in parts])
    assert sorted(met[:, 0].tolist()) == sorted(inputs.transform(data.features)[:, 0].tolist())
    assert sorted(torch.cat([part.lists.inputs[:, 0, 0] for part in parts]).tolist()) == list(range(11))
    assert all(part.shares["choice"] == (len(part.lists) > 0) for part in parts)


def test_rows_and_lists_go_through_the_network_together_as_they_would_apart(
    ranker, rows, fit_ranker, choices
):
    model = fit_ranker(rows(500, seed=0), rows(500, seed=1, period=1), choices(n=50), epochs=1)
    data, lists, weights = (
        rows(40, seed=5),
        choices(n=9).validation,
        {"play": 1.0, "completion": 2.0, "retention": 0.5, "choice": 0.7},
    )
    shares = dict.fromkeys(weights, 1.0)
    some = replace(rows_of(data, model.inputs, model.config).some(torch.arange(40)), shares=shares)
    together = replace(some, lists=lists_of(lists, model.inputs))
    apart = batch_loss(model.network, some, weights)
    logits = torch.from_numpy(np.stack([model.logits(x)["choice"] for x in lists.features]))
    expected = apart + 0.7 * choice_loss(logits, torch.from_numpy(lists.log_inclusion))
    assert batch_loss(model.network, together, weights).item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_places_add_is_learnt_at_its_own_pace_and_does_not_decay(rows):
    config = RankerConfig(learning_rate=0.002, examination_learning_rate=0.07, weight_decay=0.3)
    data = rows(100, seed=0)
    few = rows_of(data, fit_standardiser(data.features), config)
    network = RankerNetwork(few.inputs.width, ("play",), config)
    paces = lesson_of(few, few, ("play",), config).optimizer(network).param_groups
    found = {weight: (group["lr"], group["weight_decay"]) for group in paces for weight in group["params"]}
    places_alone = {network.examination.weight, network.selection.weight}
    assert found == {
        weight: (0.07, 0.0) if weight in places_alone else (0.002, 0.3) for weight in network.parameters()
    }


def bent_along_the_first_column(rows):
    """60 users with 40 equal rows each, who play where the first feature is far from 0."""
    user = np.repeat(np.arange(60), 40)
    plays = np.random.default_rng(0).random(60) < np.repeat([0.8, 0.2, 0.2, 0.8], 15)
    data, unknown = rows(len(user), seed=0), np.full(len(user), np.nan, np.float32)
    features = data.features.copy()
    features[:, 0] = user // 15 - 1.5
    return replace(
        data, features=features, play=plays[user].astype(np.float32), completion=unknown, retention=unknown, user_id=user
    )  # fmt: skip


def test_what_is_read_in_pieces_is_told_by_users_and_not_by_their_rows(rows):
    data, config = bent_along_the_first_column(rows), RankerConfig(least_bend=0.0)
    assert 0 not in inputs_of(data, config).pieces.column
    assert 0 in inputs_of(replace(data, user_id=np.arange(len(data))), config).pieces.column


def test_a_setting_says_how_far_an_outcome_bends_along_what_is_read_in_pieces(rows):
    data = bent_along_the_first_column(rows)
    strangers = replace(data, user_id=np.arange(len(data)))
    found = [
        set(inputs_of(strangers, RankerConfig(least_bend=least)).pieces.column.tolist())
        for least in (0.01, 0.99)
    ]
    assert found == [{0}, set()]
