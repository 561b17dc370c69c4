"""A version's page holds all it shows, and shows all it is told."""

import base64
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from matinee.evaluation import Evaluation, Incomplete
from matinee.version_page import Told, version_page
from models.uncertainty import Comparison, Estimate
from registry import Metric

NOON = datetime(2026, 1, 8, 12, tzinfo=UTC)
CURVE = b'<svg xmlns="http://www.w3.org/2000/svg"><g id="figure_1"/></svg>'
TOLD = Told(
    model="retriever", source="kuairand", as_of=NOON, config={"epochs": 3, "name": "<b>&"}, training_set="9b74", rows=12345,
    metrics=[
        Metric("recall", 0.4, "kuairand", "test", 20), Metric("popularity_7d_recall", 0.3, "kuairand", "test", 20),
        Metric("play_auc", 0.71, "kuairand", "valid"),
    ],
    peers=["popularity_7d", "ease"], digests={"feature service retrieval_user": "c4ca"}, figures={"learning-curve.svg": CURVE},
)  # fmt: skip
EVALUATION = Evaluation(
    source="kuairand", as_of=NOON, until=NOON.replace(day=15), ours="retriever",
    estimates={
        "popularity_7d": {"all": {"ndcg_at_20": Estimate(0.2, 0.1, 0.3, 1500)}},
        "retriever": {
            "all": {"ndcg_at_20": Estimate(0.4, 0.35, 0.45, 1500), "mrr_at_20": Estimate(0.5, 0.4, 0.6, 1500)},
            "new users": {"ndcg_at_20": Estimate(0.05, 0.01, 0.09, 7)},
        },
    },
    of_all={"retriever": {"all": {"coverage_at_20": 0.25}}, "popularity_7d": {"all": {"coverage_at_20": 0.0125}}},
    comparisons={"popularity_7d": {"all": {"ndcg_at_20": Comparison(Estimate(0.2, 0.15, 0.25, 1500), 0.0004)}}},
)  # fmt: skip


class Page(HTMLParser):
    """The tables of a page as text, its headings, and every tag with its attributes."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tables, self.headings, self.tags, self.text, self.open = [], [], [], "", []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag in {"h1", "h2", "h3"}:
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings[-1] += data


def test_a_page_is_whole_runs_nothing_and_fetches_nothing():
    page = Page(version_page(TOLD, EVALUATION))
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "a"})
    addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in {"src", "href"}]
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_equal_values_give_equal_bytes():
    assert version_page(TOLD, EVALUATION) == version_page(TOLD, EVALUATION)


def test_a_figure_is_in_the_page_byte_for_byte_with_words_for_who_cannot_see_it():
    (image,) = (attrs for tag, attrs in Page(version_page(TOLD)).tags if tag == "img")
    assert base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")) == CURVE
    assert image["alt"] == "learning curve"


def test_estimates_stand_beside_peers_with_intervals_and_what_chance_would_do():
    page = Page(version_page(TOLD, EVALUATION))
    assert {"all (1,500 users)", "new users (7 users)"} <= set(page.headings)
    everyone, new = page.tables[:2]
    assert everyone == [
        ["measure", "retriever", "popularity_7d", "minus popularity_7d"],
        ["ndcg_at_20", "0.4000 [0.3500, 0.4500]", "0.2000 [0.1000, 0.3000]", "+0.2000 [+0.1500, +0.2500], p < 0.001"],
        ["mrr_at_20", "0.5000 [0.4000, 0.6000]", "", ""],
        ["coverage_at_20", "0.2500", "0.0125", ""],
    ]  # fmt: skip
    assert new == [
        ["measure", "retriever", "popularity_7d"],
        ["ndcg_at_20", "0.0500 [0.0100, 0.0900]", ""],
    ]
    assert "2026-01-08 to 2026-01-15" in page.text


def test_a_loss_is_shown_as_one():
    worse = Comparison(Estimate(-0.02, -0.05, 0.01, 1500), 0.21)
    found = replace(EVALUATION, comparisons={"popularity_7d": {"all": {"ndcg_at_20": worse}}})
    assert "-0.0200 [-0.0500, +0.0100], p 0.210" in Page(version_page(TOLD, found)).text


def test_recorded_metrics_stand_beside_those_that_bear_a_peers_name():
    page = Page(version_page(TOLD))
    assert [["measure", "retriever", "popularity_7d"], ["recall_at_20", "0.4", "0.3"]] in page.tables
    assert [["measure", "retriever"], ["play_auc", "0.71"]] in page.tables
    assert {"test period", "valid period"} <= set(page.headings)


def test_the_page_says_what_the_version_was_made_from():
    page = Page(version_page(TOLD))
    assert page.tables[-1][1:] == [
        ["training set (12,345 rows)", "9b74"],
        ["feature service retrieval_user", "c4ca"],
    ]
    assert '"epochs": 3' in page.text


def test_names_from_outside_are_text_and_never_markup():
    page = Page(version_page(replace(TOLD, model="<script>x</script>", figures={'a" onerror="x.svg': CURVE})))
    assert page.headings[0] == "<script>x</script>"
    assert "script" not in {tag for tag, _ in page.tags}
    assert "onerror" not in {name for _, attrs in page.tags for name in attrs}
    assert '"name": "<b>&"' in page.text


def test_simulated_members_are_called_simulated():
    assert "simulated" not in Page(version_page(TOLD)).text
    assert "are simulated" in Page(version_page(replace(TOLD, simulated=True))).text


@pytest.mark.parametrize("other", [{"source": "world"}, {"simulated": True}])
def test_an_evaluation_of_something_else_is_refused(other):
    with pytest.raises(Incomplete, match="does not belong"):
        version_page(TOLD, replace(EVALUATION, **other))


def test_a_page_without_metrics_or_figures_leaves_them_out():
    page = Page(version_page(replace(TOLD, metrics=(), figures={})))
    assert page.headings == ["retriever", "What it was made from", "Configuration"]
