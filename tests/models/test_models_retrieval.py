from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from models import artifact
from models.artifact import ArtifactError, digest
from models.coplays import known_coplays
from models.data import Histories, MalformedData
from models.evaluate import evaluate_candidates, evaluate_popularity, evaluate_retrieval
from models.parallel import Team
from models.play_batches import play_batches, share_of, tensors_of
from models.retrieval import Retriever, UnknownTitle
from models.settings import RankerConfig, RetrievalConfig
from models.train_retrieval import histories_after, train_retrieval


def everybodys_favourites(period):
    """Title ids by how often they stand in a history: lifetime popularity."""
    counts = np.array([(period.histories.values == title).sum() for title in period.title_ids])
    return period.title_ids[np.argsort(-counts, kind="stable")]


def test_the_retriever_finds_far_more_of_what_is_played_than_popularity_does(periods, retriever):
    test = periods[4]
    model = evaluate_retrieval(retriever, test, (40,))
    popular = evaluate_popularity(everybodys_favourites(test), test, (40,))
    assert model["recall_at_40"] > 1.5 * popular["recall_at_40"]
    assert model["ndcg_at_40"] > 1.5 * popular["ndcg_at_40"]


@pytest.mark.parametrize("negatives", [60, 150])
def test_sampled_negatives_teach_nearly_what_the_whole_catalogue_teaches(
    periods, retriever, train_on, negatives
):
    sampled = evaluate_retrieval(train_on(periods[:4], negatives=negatives), periods[4], (40,))
    full = evaluate_retrieval(retriever, periods[4], (40,))
    assert sampled["recall_at_40"] > 0.9 * full["recall_at_40"]


def test_a_retriever_trained_on_random_plays_scores_like_chance(periods, train_on):
    rng = np.random.default_rng(0)
    shuffled = [
        replace(
            period,
            play_title=rng.integers(0, len(period.title_ids), len(period.play_title)),
            histories=replace(
                period.histories, values=rng.choice(period.title_ids, len(period.histories.values))
            ),
        )
        for period in periods[:4]
    ]
    test = periods[4]
    model = train_on(shuffled).with_titles(
        test.title_ids, test.title_features
    )  # its co-plays are random as well
    recall = evaluate_candidates(model, test, (40,))["recall_at_40"]
    # 40 of about 380 unwatched titles; 2,000 relevant pairs give a standard error near .01
    assert recall == pytest.approx(40 / 380, abs=0.04)


def test_titles_that_training_never_saw_are_found_by_their_features(periods, train_on):
    hidden = np.arange(0, 400, 10)  # rows of 40 titles
    ids = periods[0].title_ids[hidden]

    def without(period):
        kept = ~np.isin(period.play_title, hidden)
        return replace(period, play_user=period.play_user[kept], play_title=period.play_title[kept])

    model = train_on([without(period) for period in periods[:4]])
    test = periods[4]
    only_new = replace(
        test,
        play_user=test.play_user[np.isin(test.play_title, hidden)],
        play_title=test.play_title[np.isin(test.play_title, hidden)],
    )
    assert not np.isin(ids, model.towers.known_titles).any()
    assert evaluate_retrieval(model, only_new, (40,))["recall_at_40"] > 2 * 40 / 400


def test_the_same_seed_trains_the_same_bits_and_another_seed_others(periods, train_on, tmp_path):
    few = periods[:2]
    digests = [
        train_on(few, epochs=1, seed=seed, negatives=50).save(tmp_path / str(n))
        for n, seed in enumerate((5, 5, 6))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_training_leaves_the_callers_random_state_alone(periods, train_on):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train_on(periods[:2], epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_saved_retriever_comes_back_bit_for_bit(periods, retriever, tmp_path):
    identity = retriever.save(tmp_path / "model")
    loaded = Retriever.load(tmp_path / "model")
    period = periods[4]
    for user in range(20):
        mine, theirs = (
            model.candidates(period.user_features[user], period.histories.of(user), 30)
            for model in (retriever, loaded)
        )
        assert np.array_equal(mine.title_ids, theirs.title_ids)
        assert mine.scores.tobytes() == theirs.scores.tobytes()
    assert loaded.save(tmp_path / "again") == identity == digest(tmp_path / "again")
    again = loaded.with_titles(period.title_ids, period.title_features)
    assert np.array_equal(
        again.catalogue.keys, retriever.with_titles(period.title_ids, period.title_features).catalogue.keys
    )
    assert loaded.metrics == retriever.metrics
    assert loaded.user_signature == retriever.user_signature


def test_towers_beside_another_versions_titles_refuse_to_load(periods, retriever, train_on, tmp_path):
    other = train_on(periods[:2], epochs=1)
    retriever.save(tmp_path / "one")
    other.save(tmp_path / "two")
    (tmp_path / "one" / "titles.safetensors").write_bytes(
        (tmp_path / "two" / "titles.safetensors").read_bytes()
    )
    with pytest.raises(ArtifactError, match=r"titles\.safetensors belongs to another version"):
        Retriever.load(tmp_path / "one")


def test_a_forged_manifest_does_not_make_mixed_parts_one_version(periods, retriever, train_on, tmp_path):
    retriever.save(tmp_path / "one")
    train_on(periods[:2], epochs=1).save(tmp_path / "two")
    one, two = (artifact.load(tmp_path / name, "retriever") for name in ("one", "two"))
    mixed = replace(one, arrays={"weights": one.arrays["weights"], "titles": two.arrays["titles"]})
    artifact.save(mixed, tmp_path / "mixed")
    with pytest.raises(ArtifactError, match="made by other towers"):
        Retriever.load(tmp_path / "mixed")


def test_damaged_weights_refuse_to_load(retriever, tmp_path):
    retriever.save(tmp_path / "model")
    path = tmp_path / "model" / "weights.safetensors"
    arrays = load_file(path)
    arrays["user.place"] = arrays["user.place"] + np.float32(1e-6)
    save_file(arrays, path)
    with pytest.raises(ArtifactError, match="damaged"):
        Retriever.load(tmp_path / "model")


def test_candidates_are_the_best_of_the_catalogue_by_brute_force(periods, retriever):
    period = periods[4]
    for user in range(10):
        history = period.histories.of(user)
        found = retriever.candidates(period.user_features[user], history, 25, exclude=history)
        query = retriever._queries(period.user_features[[user]], Histories.of_lists([history.tolist()]))[0]
        scores = retriever.catalogue.keys @ query
        open_to = ~np.isin(retriever.title_ids, history)
        expected = sorted(zip(-scores[open_to], retriever.title_ids[open_to], strict=True))[:25]
        assert found.title_ids.tolist() == [title for _, title in expected]
        np.testing.assert_allclose(found.scores, [-score for score, _ in expected], rtol=1e-5, atol=1e-5)


def test_a_batch_of_users_gets_what_each_gets_alone(periods, retriever, monkeypatch):
    monkeypatch.setattr("models.retrieval._USERS_AT_ONCE", 6)
    period = periods[4]
    together = retriever.candidates_batch(period.user_features, period.histories, 20)
    for user in (0, 7, 499):
        history = period.histories.of(user)
        alone = retriever.candidates(period.user_features[user], history, 20, exclude=history)
        assert together[user].title_ids.tolist() == alone.title_ids.tolist()


def test_fewer_than_k_come_back_only_when_the_catalogue_has_no_more(periods, retriever):
    features, empty = periods[4].user_features[0], np.empty(0, np.int64)
    assert len(retriever.candidates(features, empty, 1000).title_ids) == 400
    all_but_one = retriever.title_ids[1:]
    assert retriever.candidates(features, empty, 5, exclude=all_but_one).title_ids.tolist() == [1000]


def test_excluding_titles_that_are_not_in_the_catalogue_changes_nothing(periods, retriever):
    features, empty = periods[4].user_features[0], np.empty(0, np.int64)
    plain = retriever.candidates(features, empty, 5)
    assert (
        retriever.candidates(features, empty, 5, np.array([7, 8, 9])).title_ids.tolist()
        == plain.title_ids.tolist()
    )


def test_a_new_user_without_history_or_known_features_gets_candidates(retriever):
    unknown = np.full(3, np.nan, np.float32)
    found = retriever.candidates(unknown, np.empty(0, np.int64), 10)
    assert len(found.title_ids) == 10
    assert np.isfinite(found.scores).all()


def test_what_was_watched_before_the_history_that_is_read_makes_no_difference(periods, retriever):
    features, history = periods[4].user_features[0], periods[4].histories.of(0)[-20:]
    older = np.concatenate([[1399, 1398, 999_999], history])
    assert (
        retriever.candidates(features, history, 10).scores.tolist()
        == retriever.candidates(features, older, 10).scores.tolist()
    )


def test_a_watched_title_that_left_the_catalogue_counts_as_nothing(periods, retriever):
    features = periods[4].user_features[0]
    gone = retriever.candidates(features, np.array([999_999]), 10)
    none = retriever.candidates(features, np.empty(0, np.int64), 10)
    assert gone.scores.tolist() == none.scores.tolist()


def test_title_vectors_have_unit_length_and_unknown_titles_are_named(retriever):
    lengths = np.linalg.norm(retriever.title_vectors(retriever.title_ids), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    with pytest.raises(UnknownTitle, match="31337"):
        retriever.title_vectors(np.array([1000, 31337]))


def test_titles_that_came_later_are_added_as_a_whole_new_catalogue_would_have_them(periods, retriever):
    """The oracle: the same towers over both together. What was there stays bit for bit, and there is nothing twice."""
    period = periods[4]
    first = retriever.with_titles(period.title_ids[:-5], period.title_features[:-5])
    both = first.also_over(period.title_ids, period.title_features)
    whole = retriever.with_titles(period.title_ids, period.title_features)
    assert np.array_equal(both.title_ids, whole.title_ids)
    np.testing.assert_allclose(both.catalogue.keys, whole.catalogue.keys, atol=1e-6)
    np.testing.assert_allclose(both.catalogue.reads, whole.catalogue.reads, atol=1e-6)
    known = both.catalogue.rows(first.title_ids)
    assert both.catalogue.keys[known].tobytes() == first.catalogue.keys.tobytes()
    assert both.catalogue.index.ntotal == len(whole.title_ids)
    assert both.also_over(period.title_ids, period.title_features) is both


def test_the_catalogue_does_not_depend_on_the_order_titles_came_in(periods, retriever):
    period = periods[4]
    turned = np.argsort(-period.title_ids)
    one = retriever.with_titles(period.title_ids, period.title_features)
    two = retriever.with_titles(period.title_ids[turned], period.title_features[turned])
    assert np.array_equal(one.title_ids, two.title_ids)
    np.testing.assert_allclose(one.catalogue.keys, two.catalogue.keys, atol=1e-6)


@pytest.mark.parametrize("negatives", [0, 40])
def test_a_batch_holds_every_play_of_its_users_and_never_asks_against_what_was_played_or_watched(
    periods, retriever, negatives
):
    tensors = tensors_of(periods[0], retriever.towers, retriever.towers.coplays)
    config = RetrievalConfig(negatives=negatives, users_per_batch=70)
    pairs = []
    for batch in play_batches([tensors], config, np.random.default_rng(0)):
        users, titles, row, column = (
            part.numpy() for part in (batch.users, batch.titles, batch.play_row, batch.play_column)
        )
        pairs += zip(users[row], titles[column], strict=True)
        candidates = titles[: len(batch.log_inclusion)]
        for place, user in enumerate(users):
            off_limits = {*tensors.watched[user], *tensors.plays[tensors.plays[:, 0] == user, 1]} - {-1}
            assert set(candidates[batch.hidden[place].numpy()]) == off_limits & set(candidates)
            read = batch.watched[place].numpy()
            assert titles[read[read >= 0]].tolist() == [t for t in tensors.watched[user] if t >= 0]
    assert sorted(pairs) == sorted(map(tuple, tensors.plays))


def weight_of_plays(batch):
    """By user and column of the title."""
    users = batch.users[batch.play_row].tolist()
    weights = batch.play_weight.tolist()
    return dict(zip(zip(users, batch.play_column.tolist(), strict=True), weights, strict=True))


@pytest.mark.parametrize("evenness", [0.0, 0.5, 1.0])
def test_a_batchs_plays_count_by_how_many_their_user_has(periods, retriever, evenness):
    """At 0 all plays count alike, at 1 all users; half a team's batch holds the weight of its users' plays."""
    tensors = tensors_of(periods[0], retriever.towers, retriever.towers.coplays)
    user = tensors.plays[:, 0]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    unlike = replace(tensors, plays=tensors.plays[place <= user % 4])  # one to four plays a user
    config = RetrievalConfig(evenness=evenness, users_per_batch=70)
    for batch in play_batches([unlike], config, np.random.default_rng(0)):
        rows = batch.play_row.tolist()
        assert {rows.count(row) for row in rows} == {1, 2, 3, 4}
        plain = np.array([rows.count(row) ** -evenness for row in rows])
        np.testing.assert_allclose(batch.play_weight, plain / plain.sum(), rtol=1e-6)
        halves = [share_of(batch, Team(rank, 2)) for rank in (0, 1)]
        whole = weight_of_plays(batch)
        assert {play for half in halves for play in weight_of_plays(half).items()} == set(whole.items())


def test_a_place_in_a_history_is_asked_for_the_title_that_was_watched_next(periods, retriever):
    tensors = tensors_of(periods[0], retriever.towers, retriever.towers.coplays)
    config = RetrievalConfig(sequence_places=90, users_per_batch=70)
    for batch in play_batches([tensors], config, np.random.default_rng(0)):
        assert len(batch.place_row) == 90
        for row, place, following in zip(batch.place_row, batch.place, batch.place_next, strict=True):
            history = tensors.watched[batch.users[row]]
            assert history[place] >= 0
            assert history[place + 1] == batch.titles[following]


def test_after_the_best_epoch_is_known_the_validation_period_is_learnt_from_as_well(periods, train_on):
    kept, again = (train_on(periods[:3], epochs=2, patience=2, refit=refit) for refit in (False, True))
    assert kept.metrics == again.metrics  # what validation said, before it was learnt from
    learnt = np.concatenate([period.title_ids[period.play_title] for period in periods[1:3]])
    assert np.array_equal(again.towers.known_titles, np.unique(learnt))
    after = known_coplays(histories_after(periods[2]), again.config)
    assert np.array_equal(again.towers.coplays.shows, after.shows)
    before = known_coplays(periods[2].histories, kept.config)
    assert np.array_equal(kept.towers.coplays.shows, before.shows)


def test_histories_after_a_period_end_with_what_was_played_in_it(periods):
    after, period = histories_after(periods[0]), periods[0]
    for user in (0, 17, 499):
        played = period.title_ids[period.play_title[period.play_user == user]]
        assert after.of(user).tolist() == [*period.histories.of(user), *played]


def test_the_stated_chance_of_a_candidate_is_how_often_it_is_one(periods, retriever):
    tensors = tensors_of(periods[0], retriever.towers, retriever.towers.coplays)
    config = RetrievalConfig(negatives=40, users_per_batch=50)
    rng = np.random.default_rng(0)
    present, stated, batches = np.zeros(400), np.zeros(400), 0
    for _ in range(60):
        for batch in play_batches([tensors], config, rng):
            titles = batch.titles.numpy()[: len(batch.log_inclusion)]
            present[titles] += 1
            stated[titles] = np.exp(batch.log_inclusion.numpy())  # of the last batch; batches differ little
            batches += 1
    assert np.abs(present / batches - stated).mean() < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"play_user": np.array([500]), "play_title": np.array([0])}, "rows are 0 to 499", id="user row"
        ),
        pytest.param(
            {"play_user": np.array([0]), "play_title": np.array([-1])}, "rows are 0 to 399", id="title row"
        ),
        pytest.param({"play_user": np.array([0])}, "play_title has", id="ragged plays"),
        pytest.param({"title_ids": np.full(400, 7)}, "more than once", id="the same title twice"),
        pytest.param({"title_ids": np.arange(399)}, "title_features has 400 rows", id="features of no title"),
        pytest.param({"as_of": datetime(2026, 3, 1)}, "no time zone", id="naive time"),
    ],
)
def test_a_period_whose_arrays_do_not_fit_is_refused(periods, change, message):
    with pytest.raises(MalformedData, match=message):
        replace(periods[0], **change)


def test_training_refuses_a_validation_period_that_does_not_come_after(periods, train_on):
    with pytest.raises(MalformedData, match="does not precede"):
        train_on([periods[1], periods[0]])


def test_training_refuses_features_its_signature_does_not_name(periods, sign):
    with pytest.raises(MalformedData, match="3 user and 6 title features; the signatures name 3 and 5"):
        train_retrieval(periods[:1], periods[1], RetrievalConfig(), sign(3), sign(5))


def test_training_without_a_play_is_refused(periods, train_on):
    nothing = replace(periods[0], play_user=np.empty(0, np.int64), play_title=np.empty(0, np.int64))
    with pytest.raises(MalformedData, match="no play to learn from"):
        train_on([nothing, periods[1]])


def test_a_misspelt_setting_is_refused():
    with pytest.raises(ValidationError, match="temprature"):
        RetrievalConfig(temprature=0.1)


def test_every_setting_says_what_it_is():
    for config in (RetrievalConfig, RankerConfig):
        assert [name for name, field in config.model_fields.items() if not field.description] == []
