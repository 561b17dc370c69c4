from dataclasses import replace

import numpy as np
import pytest
import torch

from models.artifact import ArtifactError, digest
from models.data import MalformedData
from models.evaluate import evaluate_ranking
from models.inputs import WrongWidth
from models.metrics import auc
from models.network import RankerNetwork, places
from models.ranker import Ranker
from models.settings import RankerConfig


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


def test_rankers_trained_on_shuffled_labels_score_like_chance(rows, fit_ranker, test_rows):
    def shuffled(data, rng):
        return replace(data, play=rng.permutation(data.play), retention=rng.permutation(data.retention))

    found = {"play_auc": [], "retention_auc": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        data = shuffled(rows(1500, seed=0), rng), shuffled(rows(800, seed=1, period=1), rng)
        metrics = evaluate_ranking(fit_ranker(*data, epochs=2, seed=seed), test_rows)
        for name, values in found.items():
            values.append(metrics[name])
    for values in found.values():  # a network fitted to noise points anywhere, so one may be lucky
        assert abs(np.mean(values) - 0.5) < 3 * np.std(values) / np.sqrt(8)
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
    table = model.network.examination.weight.detach().numpy().ravel()[1:11] * model.calibration["play"].slope
    slope = np.polyfit(np.arange(10), table, 1)[0]
    assert slope == pytest.approx(-0.4, abs=0.1)
    features = training.features[:300]
    served = model.score(features)
    first = model.score(features, np.zeros(300, np.float32))
    tenth = model.score(features, np.full(300, 9, np.float32))
    assert np.array_equal(served.play, first.play)
    assert (tenth.play < first.play).all()
    assert np.array_equal(served.retention, tenth.retention)


def test_a_log_without_positions_is_served_without(rows, fit_ranker, tmp_path):
    unknown = lambda data: replace(data, position=np.full(len(data), np.nan, np.float32))  # noqa: E731
    model = fit_ranker(unknown(rows(2000, seed=0)), unknown(rows(1000, seed=1, period=1)), epochs=1)
    assert np.isnan(model.serving_position)
    model.save(tmp_path / "m")
    assert np.isnan(Ranker.load(tmp_path / "m").serving_position)


def test_places_are_counted_from_one_capped_at_the_last_and_zero_where_unknown():
    position = torch.tensor([0.0, 3.0, 99.0, float("nan")])
    assert places(position, positions=10).tolist() == [1, 4, 10, 0]


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


def test_the_network_mixes_experts_as_the_paper_writes_it():
    torch.manual_seed(0)
    config = RankerConfig(experts=3, hidden=4, output=5, tower=2)
    network = RankerNetwork(6, ("play", "retention"), config).eval()
    x = torch.randn(7, 6)
    logits = network(x, torch.zeros(7, dtype=torch.long))
    first = network.first.weight.view(3, 4, 6), network.first.bias.view(3, 4)
    gates = network.gates.weight.view(2, 3, 6), network.gates.bias.view(2, 3)
    for k, head in enumerate(("play", "retention")):
        for row in range(7):
            weights = torch.softmax(gates[0][k] @ x[row] + gates[1][k], dim=0)
            mixture = torch.zeros(5)
            for e in range(3):
                hidden = torch.relu(first[0][e] @ x[row] + first[1][e])
                expert = torch.relu(network.second[e].T @ hidden + network.second_bias[e, 0])
                mixture = mixture + weights[e] * expert
            assert logits[head][row].item() == pytest.approx(network.towers[head](mixture).item(), abs=1e-5)


def test_one_body_has_about_as_many_weights_as_the_experts_it_replaces():
    size = lambda network: sum(p.numel() for p in (network.first.weight, network.second))  # noqa: E731
    mixed = RankerNetwork(500, ("play",), RankerConfig(architecture="mmoe"))
    shared = RankerNetwork(500, ("play",), RankerConfig(architecture="shared_bottom"))
    assert size(mixed) <= size(shared) <= 1.3 * size(mixed)


def test_validation_decides_which_epoch_is_kept(rows, fit_ranker):
    """Sixteen rows are learnt by heart at once; the network kept is the one before that did harm."""
    few = rows(60, seed=0)
    validation = rows(3000, seed=1, period=1)
    kept = fit_ranker(few, validation, epochs=60, patience=60, learning_rate=2e-2)
    scores = kept.score(validation.features, validation.position)
    assert auc(validation.play, scores.play) > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"play": np.zeros(500, np.float32)}, "both plays and titles passed over", id="no plays"),
        pytest.param({"features": np.zeros((500, 5), np.float32)}, "signature names", id="width"),
        pytest.param({"period": np.full(500, 1)}, "one time split parts them", id="time"),
    ],
)
def test_rows_that_cannot_train_a_ranker_are_refused(rows, sign, change, message):
    from models.train_ranker import train_ranker

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
