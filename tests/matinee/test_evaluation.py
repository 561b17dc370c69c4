"""An evaluation speaks only of what it has figures of."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from matinee.evaluation import Evaluation, Incomplete
from models.uncertainty import Comparison, Estimate

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GOOD, POOR = Estimate(0.4, 0.3, 0.5, 100), Estimate(0.2, 0.1, 0.3, 100)
BETTER = Comparison(Estimate(0.2, 0.1, 0.3, 100), 0.001)
EVALUATION = Evaluation(
    source="world", as_of=NOON, until=NOON.replace(day=8), ours="retriever",
    estimates={
        "popularity_7d": {"all": {"ndcg_at_20": POOR}},
        "retriever": {"all": {"ndcg_at_20": GOOD, "recall_at_20": GOOD}, "new users": {"ndcg_at_20": POOR}},
    },
    of_all={"retriever": {"all": {"coverage_at_20": 0.5}}},
    comparisons={"popularity_7d": {"all": {"ndcg_at_20": BETTER}}},
)  # fmt: skip


def test_ours_comes_first_and_slices_and_measures_are_those_of_ours():
    assert EVALUATION.models == ("retriever", "popularity_7d")
    assert EVALUATION.slices == ("all", "new users")
    assert EVALUATION.measures("all") == ("ndcg_at_20", "recall_at_20")
    assert EVALUATION.measures("weekends") == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"ours": "ranker"}, "'ranker'", id="ours is not there"),
        pytest.param({"until": NOON}, "holds no time", id="an empty period"),
        pytest.param(
            {"comparisons": {"ease": {"all": {"ndcg_at_20": BETTER}}}}, "'ease'", id="no such peer"
        ),
        pytest.param({"comparisons": {"retriever": {}}}, "no peer", id="compared with itself"),
        pytest.param(
            {"comparisons": {"popularity_7d": {"all": {"recall_at_20": BETTER}}}}, "of 'popularity_7d'", id="the peer has none"
        ),
        pytest.param(
            {"comparisons": {"popularity_7d": {"all": {"mrr_at_20": BETTER}}}}, "of 'retriever'", id="ours has none"
        ),
    ],
)  # fmt: skip
def test_what_there_is_no_figure_of_is_refused_by_name(change, named):
    with pytest.raises(Incomplete, match=named):
        replace(EVALUATION, **change)


def test_an_evaluation_is_written_for_programs_with_every_interval():
    written = json.loads(json.dumps(EVALUATION.to_dict()))
    assert written["estimates"]["popularity_7d"]["all"]["ndcg_at_20"] == {
        "value": 0.2, "low": 0.1, "high": 0.3, "users": 100,
    }  # fmt: skip
    assert written["comparisons"]["popularity_7d"]["all"]["ndcg_at_20"]["p_value"] == 0.001
    assert written["of_all"] == {"retriever": {"all": {"coverage_at_20": 0.5}}}
