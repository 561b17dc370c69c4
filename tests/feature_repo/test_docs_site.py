from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from raw_events import NOON
from slow_features import RandomEvents

from events.sources import WORLD
from feature_repo.compute import offline_path, plan, run
from feature_repo.declarations import references_of
from feature_repo.distributions import BARS, LEVELS, distribution
from feature_repo.docs import compiled, newest_computed, site, write_site
from feature_repo.families import declare
from feature_repo.formula import formula
from feature_repo.pages import Computed, Usage, table_page

DECLARED = declare(WORLD)
TASTE = DECLARED.table("user_taste")
SMALL = replace(DECLARED, tables=(TASTE, DECLARED.table("artwork_profile")), services=())


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    steps = plan(SMALL, [NOON], lambda _: "e", folder)
    run(steps, "world", RandomEvents(WORLD, 2).register, threads=1)
    return folder


class Tree(HTMLParser):
    """Refuses tags that do not close where they should."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[a] for a in ("href", "src") if a in found]
        if tag not in {"meta", "link", "input", "path"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def parsed(text):
    tree = Tree()
    tree.feed(text)
    assert tree.open == []
    return tree


def page(table, computed=None, usage=None, sql=None):
    return table_page("world", table, sql or {}, computed, usage or {})


def entry(text, name):
    (found,) = re.findall(rf'<details id="{name}".*?</details>', text, re.DOTALL)
    return found


def test_every_feature_of_every_table_has_its_place_and_every_link_leads_somewhere():
    trees = {f"{table.name}.html": parsed(page(table)) for table in DECLARED.tables}
    trees["index.html"] = parsed(site(SMALL, {}, {})["index.html"])
    for table in DECLARED.tables:
        ids = trees[f"{table.name}.html"].ids
        assert len(ids) == len(set(ids))
        assert set(table.names) <= set(ids)
    for tree in trees.values():
        for link in tree.links:
            target, _, place = link.partition("#")
            assert not link.startswith(("http", "//")), link
            if place:
                assert place in trees[target].ids, link


def test_a_feature_tells_what_a_person_asks(offline):
    feature = TASTE["in_drama_share_28d"]
    usage = {feature.digest: Usage(("ranker/3 @champion",), ("test/<b> (running)",))}
    sql = compiled(TASTE, WORLD)
    shown = entry(page(TASTE, newest_computed(SMALL, offline)["user_taste"], usage, sql), feature.name)
    for told in (
        feature.description, "share", "recommendations", "28 days", "from 0 to 1", feature.digest,
        "mean(in_drama) where within 28 days, over plays; unknown if there are none", "plays, <code>titles.genres",
        "as of <time", "2026-01-20 12:00 UTC", "3 rows", "ranker/3 @champion", "test/&lt;b&gt; (running)", "<svg", "median",
    ):  # fmt: skip
        assert told.replace("plays, <code>", "plays</code>, <code>") in shown, told
    assert "FILTER(WHERE" in shown


def test_the_sql_shown_of_a_feature_computes_that_feature_alone(warehouse):
    from feature_repo.known import known_at

    RandomEvents(WORLD, 2).register(warehouse)
    known_at(warehouse, WORLD, NOON)
    whole = warehouse.sql(
        "\n".join(compiled(replace(TASTE, features=TASTE.features[:1]), WORLD).values())
    ).to_arrow_table()
    assert whole.column_names == ["user_id", TASTE.names[0]]


def test_from_declarations_alone_the_site_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_site(SMALL, tmp_path / name)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert first == second
    assert "not yet" in first["user_taste.html"].decode()


def test_equal_data_gives_equal_bytes_and_other_data_other_figures(offline):
    computed = newest_computed(SMALL, offline)
    assert page(TASTE, computed["user_taste"]) == page(TASTE, newest_computed(SMALL, offline)["user_taste"])
    other = replace(
        computed["user_taste"], columns=dict.fromkeys(TASTE.names, distribution(pa.chunked_array([[0.25]])))
    )
    assert page(TASTE, computed["user_taste"]) != page(TASTE, other)


def test_the_page_of_a_table_that_is_gone_goes_too(tmp_path):
    write_site(SMALL, tmp_path)
    write_site(replace(SMALL, tables=(TASTE,)), tmp_path)
    assert {path.name for path in tmp_path.glob("*.html")} == {"index.html", "user_taste.html"}


def test_the_search_list_holds_every_feature(tmp_path):
    text = site(SMALL, {}, {})["features.js"]
    listed = json.loads(text.removeprefix("const FEATURES = ").removesuffix(";\n"))
    assert [(row[0], row[1]) for row in listed] == [(t.name, n) for t in SMALL.tables for n in t.names]


def test_a_file_of_other_features_is_not_taken_for_the_newest(offline):
    slim = replace(SMALL, tables=(replace(TASTE, features=TASTE.features[1:]),))
    assert set(newest_computed(SMALL, offline)) == {"user_taste", "artwork_profile"}
    assert newest_computed(slim, offline) == {}
    assert offline_path(offline, "user_taste", NOON).exists()


def test_what_the_newest_file_holds_is_counted(offline):
    (made,) = [c for name, c in newest_computed(SMALL, offline).items() if name == "user_taste"]
    assert isinstance(made, Computed)
    assert (made.as_of, made.rows) == (NOON, 3)
    assert set(made.columns) == set(TASTE.names)


@pytest.mark.parametrize("values", [
    [0.0, 1.0, 1.0, None],
    [None, None],
    [3.0],
    [float(i) for i in range(1000)],
    [0.0] * 990 + [float(i) for i in range(10)] * 3,
    [0.0] * 9_999 + [float(i) for i in range(20)],
])  # fmt: skip
def test_every_known_row_is_in_a_bar_and_quantiles_are_numpys(values):
    column = pa.chunked_array([pa.array(values, pa.float32())])
    made = distribution(column)
    known = np.array([v for v in values if v is not None])
    assert (made.rows, made.nulls, sum(made.counts)) == (len(values), len(values) - len(known), len(known))
    assert made.null_share == pytest.approx(values.count(None) / len(values))
    assert made.distinct == len(set(known))
    assert len(made.counts) <= BARS
    if len(known):
        assert made.quantiles == tuple(np.quantile(known, LEVELS))
        assert made.mean == pytest.approx(known.mean())
        assert known.min() <= made.low <= made.high <= known.max()


def test_a_few_values_have_a_bar_each_and_a_long_tail_does_not_flatten_the_rest():
    assert distribution(pa.chunked_array([pa.array([2.0, 5.0, 5.0], pa.float32())])).counts == (1, 2)
    long = distribution(pa.chunked_array([pa.array([*map(float, range(1000)), 1e9], pa.float32())]))
    assert long.high < 1000
    assert max(long.counts) < 60


def test_a_table_without_rows_has_no_null_share_to_divide_by():
    assert distribution(pa.chunked_array([pa.array([], pa.float32())])).null_share == 0


@pytest.mark.parametrize(("table", "feature", "reads"), [
    ("user_activity", "watch_minutes_sum_28d_in_drama", "sum(watch_minutes) where within 28 days and in_drama, over plays; 0 if there are none"),
    ("user_activity", "watch_share_std_14d", "std(watch_share) where within 14 days, over plays; unknown if there are none"),
    ("user_activity", "title_nunique_1d", "distinct(title_id) where within 1 day, over plays; 0 if there are none"),
    ("user_activity", "renewal_count", "count where status = 'renewed', over memberships; 0 if there are none"),
    ("user_activity", "days_since_impression", "min(days_ago), over impressions; unknown if there are none"),
    ("title_profile", "genre_count", "genre_count, of the title"),
    ("title_profile", "play_momentum_1d_of_3d", "play_count_1d / play_count_3d"),
    ("user_title", "audience_gap_28d_in_drama", "user_taste:in_drama_share_28d - title_activity:audience_in_drama_mean_28d"),
])  # fmt: skip
def test_a_formula_reads_as_one_would_write_it(table, feature, reads):
    assert formula(DECLARED.table(table), DECLARED.table(table)[feature]) == reads


def test_no_formula_keeps_the_marks_of_sql():
    for table in DECLARED.tables:
        for feature in table.features:
            text = formula(table, feature)
            assert not re.search(r'"|FILTER|CAST|SELECT|FROM|\bt\d\.', text), (feature.name, text)
            assert len(text) < 200 or references_of(feature.computation), (feature.name, text)
