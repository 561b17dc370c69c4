import math
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from models.coplays import known_coplays
from models.data import Candidates, Histories, RankingSet, RetrievalPeriod
from models.evaluate import (
    PlayLog,
    evaluate_lists,
    evaluate_popularity,
    evaluate_ranking,
    evaluate_retrieval,
    evaluate_two_stage,
    histories_of,
    judged,
    judged_only,
    popularity,
    rank,
    retrieved_lists,
    score_lists,
    score_slice,
    slices_of,
)
from models.metrics import Undefined
from models.objective import HeadScores
from models.train_retrieval import histories_after

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def period(histories, plays, n_titles=6):
    """Titles 10, 11, …; plays as (user row, title id)."""
    users, titles = np.array(plays, dtype=np.int64).reshape(-1, 2).T
    return RetrievalPeriod(
        NOON,
        np.arange(len(histories)) + 100,
        np.zeros((len(histories), 1), np.float32),
        Histories.of_lists(histories),
        np.arange(n_titles) + 10,
        np.zeros((n_titles, 1), np.float32),
        users,
        titles - 10,
    )


@dataclass(frozen=True)
class FixedOrder:
    """A candidate model that returns the catalogue in one order, without each user's history."""

    order: np.ndarray
    catalogue: np.ndarray | None = None

    def at(self, period):
        return FixedOrder(self.order, period.title_ids)

    def candidates_batch(self, user_features, histories, k):
        assert len(user_features) == len(histories)
        kept = self.order[np.isin(self.order, self.catalogue)]
        lists = [kept[~np.isin(kept, histories.of(user))][:k] for user in range(len(histories))]
        return [Candidates(titles, -np.arange(len(titles), dtype=np.float32)) for titles in lists]


def test_a_model_is_asked_as_it_was_when_the_period_began():
    one = period([[], []], [(0, 11), (1, 12)], n_titles=3)
    later = FixedOrder(np.array([13, 12, 11, 10]), np.array([13]))  # knows a title that came afterwards
    assert [titles.tolist() for titles in retrieved_lists(later, one, 5)] == [[12, 11, 10]] * 2


def test_users_are_judged_by_titles_they_play_for_the_first_time():
    one = period([[10], [], [12]], [(0, 10), (0, 11), (0, 11), (1, 13), (1, 10), (2, 12)])
    scored = judged(one)
    assert scored.users.tolist() == [0, 1]  # user 2 only rewatched
    assert [titles.tolist() for titles in scored.relevant] == [[11], [10, 13]]


def test_a_title_another_user_watched_before_is_still_new_to_this_one():
    assert judged(period([[10], []], [(1, 10)])).users.tolist() == [1]


def test_a_period_in_which_nobody_plays_anything_new_has_no_metrics():
    with pytest.raises(Undefined):
        judged(period([[10]], [(0, 10)]))


def test_metrics_are_means_over_users():
    lists = [np.array([1, 2, 3]), np.array([4, 5, 6])]
    metrics = evaluate_lists(lists, [np.array([1, 9]), np.array([5])], catalogue_size=12, ks=(1, 3))
    assert metrics["recall_at_1"] == (1 / 2 + 0) / 2
    assert metrics["recall_at_3"] == (1 / 2 + 1) / 2
    assert metrics["ndcg_at_3"] == pytest.approx((1 / (1 + 1 / math.log2(3)) + 1 / math.log2(3)) / 2)
    assert metrics["coverage_at_3"] == 6 / 12


def test_popularity_and_a_model_that_ranks_by_it_score_the_same():
    one = period([[13], [], [12, 10]], [(0, 11), (0, 14), (1, 13), (2, 15)])
    ranking = np.array([13, 10, 15, 12, 11, 14])
    assert evaluate_popularity(ranking, one, (1, 3)) == evaluate_retrieval(FixedOrder(ranking), one, (1, 3))


def test_titles_of_the_history_do_not_take_places_in_anyones_list():
    one = period([[10, 11]], [(0, 12)])
    ranking = np.array([10, 11, 12, 13, 14, 15])
    assert evaluate_popularity(ranking, one, (1,))["recall_at_1"] == 1


def test_titles_that_were_not_available_do_not_take_places_either():
    one = period([[]], [(0, 12)])
    assert evaluate_popularity(np.array([999, 12]), one, (1,))["recall_at_1"] == 1


def log(*plays):
    """Plays as (title, happened before noon, known before noon)."""
    stamp = lambda moment: np.datetime64(moment.replace(tzinfo=None), "us")  # noqa: E731
    return PlayLog(
        np.array([title for title, _, _ in plays], dtype=np.int64),
        np.array([stamp(NOON - happened) for _, happened, _ in plays], dtype="datetime64[us]"),
        np.array([stamp(NOON - known) for _, _, known in plays], dtype="datetime64[us]"),
    )


DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("happened", "known", "counted"),
    [
        pytest.param(HOUR, HOUR, True, id="in the window"),
        pytest.param(7 * DAY, HOUR, True, id="at the far edge"),
        pytest.param(7 * DAY + MICROSECOND, HOUR, False, id="just past the far edge"),
        pytest.param(MICROSECOND, MICROSECOND, True, id="just before as_of"),
        pytest.param(0 * DAY, 0 * DAY, False, id="at as_of"),
        pytest.param(0 * DAY, HOUR, False, id="at as_of, announced before"),
        pytest.param(HOUR, 0 * DAY, False, id="happened before, known only at as_of"),
    ],
)
def test_a_play_counts_when_it_happened_in_the_window_and_was_known(happened, known, counted):
    ranking = popularity(log((12, happened, known)), NOON, 7, np.array([10, 11, 12]))
    assert ranking.tolist() == ([12, 10, 11] if counted else [10, 11, 12])


def test_lifetime_popularity_counts_all_that_was_known():
    old = log((12, 900 * DAY, 900 * DAY))
    assert popularity(old, NOON, None, np.array([10, 12])).tolist() == [12, 10]


def test_as_of_in_another_time_zone_is_the_same_moment():
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    plays = log((12, MICROSECOND, MICROSECOND), (11, 0 * DAY, 0 * DAY))
    assert popularity(plays, tokyo, 7, np.array([10, 11, 12])).tolist() == [12, 10, 11]


def test_popularity_counts_plays_breaks_ties_by_id_and_ignores_what_is_not_available():
    plays = log(*[(title, HOUR, HOUR) for title in (14, 14, 12, 11, 99, 99, 99, 5)])
    assert popularity(plays, NOON, 1, np.array([14, 13, 12, 11])).tolist() == [14, 11, 12, 13]


def test_a_naive_as_of_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        popularity(log(), NOON.replace(tzinfo=None), 7, np.array([1]))


def test_ranking_breaks_ties_by_title_id():
    assert rank(np.array([9, 3, 5]), np.array([0.5, 0.5, 0.9])).tolist() == [5, 3, 9]


def test_two_stages_reorder_what_was_retrieved_and_nothing_else():
    one = period([[], [13]], [(0, 12), (1, 15)])
    order = np.array([10, 11, 12, 13, 14, 15])

    def features(user_id, title_ids):
        wanted = {100: 12, 101: 15}[user_id]
        return (title_ids == wanted).astype(np.float32)[:, None]

    def by_the_feature(matrix):
        return matrix[:, 0]

    perfect = evaluate_two_stage(FixedOrder(order), by_the_feature, features, one, n_candidates=3, ks=(1,))
    assert perfect["recall_at_1"] == 1 / 2  # 12 was among user 0's three, 15 was not among user 1's
    first = evaluate_two_stage(
        FixedOrder(order), by_the_feature, features, one, n_candidates=3, ks=(1,), users=1
    )
    assert first["recall_at_1"] == 1


def test_judging_only_the_first_users_keeps_the_users_and_drops_the_others_plays():
    one = period([[10], [], []], [(0, 10), (1, 11), (2, 12), (2, 13)])
    assert judged(judged_only(one, 1)).users.tolist() == [1]
    assert judged(judged_only(one, 99)).users.tolist() == [1, 2]


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_the_last_of_a_history_are_its_newest_padded_on_the_left(length):
    histories = Histories.of_lists([[1, 2, 3], [], [4]])
    expected = [([-1] * 9 + titles)[-length:] for titles in ([1, 2, 3], [], [4])]
    assert histories.last(length).tolist() == expected


def test_histories_of_some_users_are_theirs_in_the_order_asked():
    some = histories_of(Histories.of_lists([[1, 2], [], [3]]), np.array([2, 1, 0]))
    assert [some.of(user).tolist() for user in range(3)] == [[3], [], [1, 2]]


@dataclass(frozen=True)
class Oracle:
    """Scores rows by their first feature, retention absent."""

    def score(self, features, position=None):
        assert position is not None
        return HeadScores(play=features[:, 0], completion=features[:, 1])


def test_completion_is_judged_among_plays_and_what_is_undetermined_is_left_out():
    nan = np.float32("nan")
    f32 = lambda *values: np.array(values, dtype=np.float32)  # noqa: E731
    rows = RankingSet(
        features=np.array([[0.9, 0.2], [0.1, 0.9], [0.8, 0.95], [0.3, 0.99]], dtype=np.float32),
        play=f32(1, 0, 1, 0),
        completion=f32(0.1, nan, 0.95, 1),  # the last is a share of a title that was not played
        retention=f32(nan, nan, nan, nan),
        position=f32(0, 1, 2, 3),
        user_id=np.array([1, 1, 2, 3]),
        title_id=np.arange(4),
        period=np.zeros(4, np.int64),
    )
    metrics = evaluate_ranking(Oracle(), rows)
    assert metrics["play_auc"] == 1
    assert metrics["play_user_auc"] == 1
    assert metrics["completion_auc"] == 1
    assert metrics["completion_ece"] == pytest.approx((0.1 + 0.0) / 2)
    assert "completion_user_auc" not in metrics  # no user has plays of both kinds
    assert not [name for name in metrics if name.startswith("retention")]


def test_importing_the_evaluation_does_not_load_torch_or_faiss():
    program = (
        "import models.evaluate, models.objective, models.diversity, models.settings, models.artifact, sys; "
    )
    program += "sys.exit(bool({'torch', 'faiss'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_slices_part_users_by_history_and_titles_by_whether_anybody_had_played_them():
    one = period([[10], [], [11]], [(0, 12), (0, 13), (1, 13), (2, 12)])
    found = {part.name: part for part in slices_of(one, np.array([10, 11, 12]))}
    assert found["all"].places.tolist() == [0, 1, 2]
    assert found["warm users"].places.tolist() == [0, 2]
    assert found["new users"].places.tolist() == [1]
    assert [part.tolist() for part in found["new titles"].relevant] == [[13], [13]]
    assert found["new titles"].places.tolist() == [0, 1]
    assert [part.tolist() for part in found["known titles"].relevant] == [[12], [12]]
    assert found["known titles"].places.tolist() == [0, 2]


def test_a_slice_that_nobody_is_in_is_left_out():
    one = period([[10]], [(0, 12)])
    assert [part.name for part in slices_of(one, np.array([10, 12]))] == ["all", "warm users", "known titles"]


def test_a_slice_is_scored_by_its_own_users_lists_and_relevant_titles():
    one = period([[10], []], [(0, 12), (0, 13), (1, 13)])
    new = next(part for part in slices_of(one, np.array([12])) if part.name == "new titles")
    found = score_slice(new, [np.array([12, 13]), np.array([13, 12])], 6, (1, 2))
    assert found.of_users["recall_at_1"].tolist() == [0, 1]
    assert found.of_users["recall_at_2"].tolist() == [1, 1]


def test_every_user_has_a_figure_and_their_mean_is_the_metric():
    lists, relevant = [np.array([1, 2]), np.array([3, 1])], [np.array([2]), np.array([3, 9])]
    vectors = {1: [1.0, 0.0], 2: [0.0, 1.0], 3: [1.0, 0.0]}
    found = score_lists(
        lists, relevant, 9, (2,), lambda titles: np.array([vectors[t] for t in titles], np.float32)
    )
    assert found.of_users["recall_at_2"].tolist() == [1, 0.5]
    assert found.of_users["mrr_at_2"].tolist() == [0.5, 1]
    assert found.of_users["diversity_at_2"].tolist() == pytest.approx([1, 0])  # 1 - cos of the two
    assert found.means()["mrr_at_2"] == 0.75
    assert found.of_all["coverage_at_2"] == 3 / 9
    assert evaluate_lists(lists, relevant, 9, (2,))["gini_at_2"] == found.of_all["gini_at_2"]


def test_a_model_is_evaluated_as_it_could_have_been_when_the_period_began(periods, retriever):
    test = periods[4]
    later = replace(
        retriever,
        towers=replace(retriever.towers, coplays=known_coplays(histories_after(test), retriever.config)),
    )
    assert evaluate_retrieval(later, test, (20,)) == evaluate_retrieval(retriever, test, (20,))
