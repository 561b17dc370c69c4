"""The search grammar, against an evaluator that is slow and obvious."""

import contextlib
import itertools
import json
import random
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import (
    ArmRecord,
    ExperimentRecord,
    Input,
    InvalidPageToken,
    InvalidRecord,
    Metric,
    QuerySyntax,
    Signature,
    VersionDraft,
)
from registry.query import AllOf, AnyOf, Comparison, Field, Not, parse_query

WORDS = [
    "world",
    "kuairand",
    "World",
    "a%b",
    "a_b",
    "it's",
    'say "x"',
    "back\\slash",
    "É",
    "é",
    "",
    "10",
    "9",
]
NUMBERS = [0.0, 0.1, 0.25, 0.3, 1.0, -2.5, 10.0]
KEYS = ["source", "team name", "dotted.key-1"]
METRICS = ["auc", "recall_at_200"]


@pytest.fixture(scope="module")
def library(module_ledger, lineage):
    """Forty versions of three models, with tags, parameters and metrics drawn from small pools."""
    ledger, rng = module_ledger, random.Random(7)
    services = [lineage(ledger, suffix)[0] for suffix in ("", "x")]
    for n in range(40):
        read = rng.choice(
            [
                (),
                *((Input("features", digest),) for digest in services),
                (Input("a", services[0]), Input("b", services[1])),
            ]
        )
        draft = VersionDraft(
            rng.choice(["ranker", "Retriever", "artwork_best"]),
            {"config.json": b"%d" % n},
            metrics=[
                Metric(key, rng.choice(NUMBERS), split=split, k=k)
                for key, k in [("auc", None), ("recall", 200)]
                for split in ("test", "validation")
                if rng.random() < 0.6
            ],
            tags={key: rng.choice(WORDS) for key in KEYS if rng.random() < 0.6},
            params={"layers": rng.choice([1, 2, 10, 0.5, "many", "É"])} if rng.random() < 0.7 else {},
            source=rng.choice(WORDS),
            signature=Signature(read),
        )
        ledger.register(draft)
    for ref, alias in [("ranker/1", "shadow"), ("ranker/2", "Shadow"), ("Retriever/1", "shadow")]:
        ledger.promote(ref, alias, by="ada", reason="test")
    arms = (
        ArmRecord("control", {"r": "ranker/1"}, {"weight": 1}),
        ArmRecord("treated", {"r": "ranker/2", "s": "Retriever/1"}),
    )
    ledger.record_experiment(ExperimentRecord("rows", "page", arms), by="ada")
    ledger.start_experiment("rows", by="ada")
    return ledger


@pytest.fixture(scope="module")
def everything(library):
    """What the evaluator sees of each version: every value of every field."""
    versions = library.search(limit=1000).versions
    features = {
        version.ref: [c for held in library.columns(version.ref).values() for c in held]
        for version in versions
    }
    arms = {"ranker/1": ["rows/control"], "ranker/2": ["rows/treated"], "Retriever/1": ["rows/treated"]}
    return {
        version.ref: {
            "name": [version.name],
            "version": [float(version.number)],
            "created_at": [version.created_at],
            "source": [version.source],
            "aliases": version.aliases,
            "features": [
                name for feature in features[version.ref] for name in (feature.name, feature.digest)
            ],
            "arms": arms.get(version.ref, []),
            **{f"tags.{key}": [value] for key, value in version.tags.items()},
            **{f"params.{key}": [value] for key, value in version.params.items()},
            **{f"metrics.{name}": [m.value for m in version.metrics if m.name == name] for name in METRICS},
            **{
                f"metrics.{name}/{split}": [
                    m.value for m in version.metrics if (m.name, m.split) == (name, split)
                ]
                for name in METRICS
                for split in ("test", "validation")
            },
        }
        for version in versions
    }


def like(value, pattern, *, fold):
    if fold:  # of ASCII letters only, on every database
        value, pattern = (re.sub("[A-Z]", lambda m: m[0].lower(), text) for text in (value, pattern))
    tokens = re.findall(r"\\[%_\\]|.", pattern, re.DOTALL)
    regex = "".join({"%": ".*", "_": "."}.get(t, re.escape(t[-1])) for t in tokens)
    return re.fullmatch(regex, value, re.DOTALL) is not None


TESTS = {
    "=": lambda value, given: value == given,
    "<": lambda value, given: value < given,
    "<=": lambda value, given: value <= given,
    ">": lambda value, given: value > given,
    ">=": lambda value, given: value >= given,
    "LIKE": lambda value, given: like(value, given, fold=False),
    "ILIKE": lambda value, given: like(value, given, fold=True),
}
ORDERED = ["=", "<", "<=", ">", ">="]


def quoted(text, quote="'"):
    return quote + text.replace(quote, quote * 2) + quote


def numeric(values):
    """The values of a parameter that are numbers."""
    found = []
    for value in values:
        try:
            found.append(float(value))
        except ValueError:
            continue
    return found


TEXTS = st.sampled_from(
    [*WORDS, "ranker", "Retriever", "shadow", "rows/treated", "f1", "watch_minutes_sum_7d"]
)
PATTERNS = st.sampled_from(
    ["%", "", "%a%", "a\\%b", "a\\_b", "a_b", "W%", "w%", "%\\", "_", "é", "É%", "%/%", "%'%"]
)
TEXT_FIELDS = st.sampled_from(
    [("name", "name"), ("source", "source"), ("aliases", "aliases"), ("alias", "aliases"), ("arms", "arms"),
     ("features", "features"), ("tags.source", "tags.source"), ("tags.`team name`", "tags.team name"),
     ('tag."dotted.key-1"', "tags.dotted.key-1"), ("tags.dotted.key-1", "tags.dotted.key-1"),
     ("params.layers", "params.layers"), ("tags.missing", "tags.missing")]
)  # fmt: skip
NUMBER_FIELDS = st.sampled_from(
    [("version", "version"), ("metrics.auc", "metrics.auc"), ("metric.recall_at_200", "metrics.recall_at_200"),
     ("metrics.auc[split='test']", "metrics.auc/test"), ("params.layers", "params.layers"),
     ("metrics.recall_at_200[split = 'validation', dataset = '']", "metrics.recall_at_200/validation"),
     ("metrics.nope", "metrics.nope")]
)  # fmt: skip


def some(field, test):
    """Whether some value of the field passes."""
    return lambda row: any(test(value) for value in row.get(field, []))


@st.composite
def comparisons(draw):
    """(text of the query, what it means)."""
    if draw(st.booleans()):
        (written, field), literals, numbers = draw(TEXT_FIELDS), TEXTS, False
    else:
        (written, field), literals, numbers = draw(NUMBER_FIELDS), st.sampled_from([*NUMBERS, 2, 1e300]), True
    as_text = repr if numbers else quoted
    seen = numeric if numbers else list
    word = draw(
        st.sampled_from([*ORDERED, "!=", "IN", "NOT IN"] + ([] if numbers else ["LIKE", "ILIKE", "NOT LIKE"]))
    )
    casing = draw(st.sampled_from([str.upper, str.lower]))
    positive = word.removeprefix("NOT ").replace("!=", "=")
    if positive == "IN":
        chosen = draw(st.lists(literals, min_size=1, max_size=3))
        text = f"{written} {casing(word)} ({', '.join(map(as_text, chosen))})"
        passes = lambda value: value in chosen  # noqa: E731 - it is drawn
    else:
        value = draw(PATTERNS if positive.endswith("LIKE") else literals)
        text, passes = f"{written} {casing(word)} {as_text(value)}", lambda held: TESTS[positive](held, value)
    holds = lambda row: any(passes(value) for value in seen(row.get(field, [])))  # noqa: E731
    return (text, holds) if positive == word else (text, lambda row: not holds(row))


def joined(parts, word, every):
    return f" {word} ".join(f"({text})" for text, _ in parts), lambda row: every(
        holds(row) for _, holds in parts
    )


QUERIES = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        inner.map(lambda part: (f"NOT ({part[0]})", lambda row: not part[1](row))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined(parts, "AND", all)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined(parts, "or", any)),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(query=QUERIES)
def test_a_search_finds_what_reading_everything_finds(query, library, everything):
    text, holds = query
    found = {version.ref for version in library.search(text, limit=1000).versions}
    assert found == {ref for ref, row in everything.items() if holds(row)}


ALL_40 = 40


@pytest.mark.parametrize(
    ("text", "refs"),
    [
        ("aliases = 'shadow'", {"ranker/1", "Retriever/1"}),
        ("alias = 'Shadow'", {"ranker/2"}),
        ("aliases ILIKE 'SHADOW'", {"ranker/1", "ranker/2", "Retriever/1"}),
        ("arms = 'rows/treated'", {"ranker/2", "Retriever/1"}),
        ("arms LIKE 'rows/%' and name = 'ranker'", {"ranker/1", "ranker/2"}),
    ],
)
def test_aliases_and_arms_find_the_versions_that_have_them(library, text, refs):
    assert {version.ref for version in library.search(text).versions} == refs
    rest = library.search(f"NOT ({text})", limit=1000).versions
    assert len(rest) == ALL_40 - len(refs)


def test_features_find_the_versions_made_from_them_by_name_or_by_digest(library):
    versions = library.search(limit=1000).versions
    service_of = {digest: library.impact(f"feature {digest}").services[0].digest for digest in ("f7", "f7x")}
    for text, services in [
        ("feature = 'f7'", {service_of["f7"]}),
        ("features = 'f7x'", {service_of["f7x"]}),
        ("features = 'watch_minutes_sum_7d'", set(service_of.values())),
    ]:
        expected = {version.ref for version in versions if services & set(version.signature.services)}
        assert {version.ref for version in library.search(text, limit=1000).versions} == expected != set()
        assert len(library.search(f"NOT {text}", limit=1000).versions) == ALL_40 - len(expected)


def test_a_version_without_a_training_set_is_found_by_what_it_is_not(ledger, draft, training_set):
    ledger.record_training_set(training_set("t"))
    ledger.register(draft())
    ledger.register(draft(weights=1, training_set="t"))
    for text, number in [
        ("training_set = 't'", 2),
        ("training_set != 't'", 1),
        ("NOT training_set LIKE '%t%'", 1),
    ]:
        assert [version.number for version in ledger.search(text).versions] == [number]


def test_and_binds_closer_than_or_and_not_closest():
    a, b, c = (Comparison(Field("name"), "=", (value,)) for value in "abc")
    text = "name = 'a' OR NOT name = 'b' AND name = 'c'"
    assert parse_query(text) == AnyOf((a, AllOf((Not(b), c))))
    assert parse_query("(name = 'a' OR name = 'b') AND name = 'c'") == AllOf((AnyOf((a, b)), c))
    assert parse_query("  ") == AllOf(())


def test_the_query_of_the_readme_works(ledger):
    for source, recall in [("kuairand", 0.31), ("kuairand", 0.3), ("world", 0.5)]:
        ledger.register(
            VersionDraft(
                "retriever",
                {"a.json": b"%f" % recall},
                metrics=[Metric("recall", recall, k=200)],
                tags={"source": source},
            )
        )
    found = ledger.search("metrics.recall_at_200 > 0.3 and tags.source = 'kuairand'").versions
    assert [version.number for version in found] == [1]


def test_what_the_mlflow_client_appends_to_every_search_is_understood(library):
    appended = "tags.`mlflow.prompt.is_prompt` != 'true'"
    assert len(library.search(appended, limit=1000).versions) == 40


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ("created_at < '2026-01-01T00:00:02Z'", [1, 2]),
        ("created_at <= '2026-01-01T00:00:02Z'", [1, 2, 3]),
        ("created_at >= '2026-01-01T09:00:03+09:00'", [4]),
        (f"created_at = {int(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC).timestamp() * 1000)}", [2]),
        ("created_at > '2026-01-02'", []),
        ("created_at IN ('2026-01-01', '2026-01-01T00:00:03')", [1, 4]),
    ],
)
def test_creation_times_are_compared_as_instants(ledger, draft, asked, numbers):
    for weights in range(4):  # the clock of the tests starts with the year and ticks once a version
        ledger.register(draft(weights=weights))
    created = [version.created_at for version in ledger.search().versions[::-1]]
    assert created == [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(4)]
    assert sorted(version.number for version in ledger.search(asked).versions) == numbers


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("nmae = 'x'", 0, "no field 'nmae'. Did you mean 'name'?"),
        ("name = 'x' and nonsense > 2", 15, "There are: name, version"),
        ("name =", 6, "did not expect the end of the text; expected a number or a text in quotes"),
        ("name = 'x' name = 'y'", 11, "expected AND, OR or the end"),
        ("(name = 'x'", 11, "expected )"),
        ("name = 'x'" + ")", 10, "did not expect ')'; expected the end"),
        ("name ~ 'x'", 5, "one of = != < <= > >="),
        ("name = 'x", 7, "a text in quotes"),
        ("metrics.auc > 'x'", 14, "metrics.auc is a number"),
        ("name = 3", 7, "put quotes around 3"),
        ("version LIKE 'x'", 8, "LIKE compares text"),
        ("created_at > 'soon'", 13, "is no time"),
        ("created_at > 1e99", 13, "is no time"),
        ("metrics > 0.3", 0, "metrics.some_key"),
        ("name.first = 'x'", 0, "name has no keys"),
        ("metrics.auc[fold = '1'] > 0.3", 12, "no label 'fold'. It has: dataset, split"),
        ("tags.a[split = 'test'] = 'x'", 0, "only metrics have labels"),
        ("params.x IN (1, 'a')", 13, "text and numbers in one list"),
        ("name IN ()", 9, "a text in quotes"),
        ("name = 'x\0'", 7, "NUL"),
        ("not " * 60 + "name = 'x'", 0, "nested more than 50"),
        (" or ".join(["name = 'x'"] * 101), 0, "101 comparisons; the limit is 100"),
    ],
)
def test_a_mistake_is_shown_with_its_place_and_what_was_expected(library, text, column, says):
    with pytest.raises(QuerySyntax) as mistake:
        library.search(text)
    assert mistake.value.position == column
    assert says in mistake.value.problem
    *_, shown, caret = str(mistake.value).split("\n")
    assert (shown, caret.index("^")) == (f"  {text}", column + 2)


@settings(max_examples=100, deadline=None)
@given(st.text("namesvrio.tgc_1'\"`()[]=!<>, \\%\0", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_query_or_a_syntax_error(text):
    with contextlib.suppress(QuerySyntax):
        parse_query(text)


@pytest.mark.parametrize(
    ("extreme", "found"),
    [("version > 99999999999999999999", 0), ("version = 1e999", 0), ("version > -1e400", 40)],
)
def test_numbers_beyond_the_integers_of_the_database_are_compared_all_the_same(library, extreme, found):
    assert len(library.search(extreme, limit=1000).versions) == found


def test_a_query_of_a_hundred_comparisons_runs(library):
    library.search(" or ".join(["tags.a = 'x'"] * 100))


ORDERS = [
    [],
    ["created_at DESC"],
    ["metrics.auc"],
    ["metrics.auc[split='test'] desc", "name"],
    ["params.layers"],
    ["tags.source DESC", "version"],
    ["source", "metrics.recall_at_200 DESC"],
]


@pytest.mark.parametrize("order_by", ORDERS, ids=str)
@pytest.mark.parametrize("limit", [3, 40])
def test_pages_follow_one_another_without_a_gap_or_a_repetition(library, order_by, limit):
    whole = [version.ref for version in library.search("", order_by, limit=1000).versions]
    assert sorted(whole) == sorted({version.ref for version in library.search(limit=1000).versions})
    seen, token = [], None
    for _ in itertools.count():
        page = library.search("", order_by, limit=limit, page_token=token)
        seen += [version.ref for version in page.versions]
        token = page.next_page_token
        if token is None:
            break
        assert len(page.versions) == limit
        assert len(seen) < len(whole), "no token is handed out for an empty page"
    assert seen == whole


def test_the_order_is_the_one_asked_for_and_what_is_missing_comes_last(library):
    def auc(version):
        return max((m.value for m in version.metrics if m.name == "auc"), default=None)

    for direction, sign in (("ASC", 1), ("DESC", -1)):
        found = [
            auc(version) for version in library.search("", [f"metrics.auc {direction}"], limit=1000).versions
        ]
        assert found == sorted(found, key=lambda value: (value is None, sign * (value or 0)))
        assert None in found
    by_name = [(v.name, -v.number) for v in library.search(limit=1000).versions]
    assert by_name == sorted(by_name)
    layers = [
        v.params["layers"] for v in library.search("params.layers LIKE '%'", ["params.layers"], 1000).versions
    ]
    assert [float(value) for value in layers if numeric([value])] == sorted(numeric(layers))
    assert layers[-1] == "É", "what is no number comes after the numbers"


def test_a_page_is_not_shifted_by_what_is_registered_meanwhile(ledger, draft):
    for weights in range(6):
        ledger.register(draft(weights=weights))
    first = ledger.search(limit=3)
    ledger.register(draft(weights=99))
    second = ledger.search(limit=3, page_token=first.next_page_token)
    assert [version.number for version in (*first.versions, *second.versions)] == [6, 5, 4, 3, 2, 1]


def test_a_token_of_another_query_or_one_that_was_altered_is_refused(library):
    token = library.search("version > 0", ["name"], limit=2).next_page_token
    seal, *values = json.loads(urlsafe_b64decode(token))
    altered = urlsafe_b64encode(json.dumps([seal, "zzz", *values[1:]]).encode()).decode()
    for query, order_by, handed in [
        ("version > 1", ["name"], token), ("version > 0", [], token), ("version > 0", ["name"], altered),
        ("version > 0", ["name"], "x"), ("version > 0", ["name"], "ü"), ("version > 0", ["name"], token[:-4]),
    ]:  # fmt: skip
        with pytest.raises(InvalidPageToken):
            library.search(query, order_by, limit=2, page_token=handed)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_one_to_a_thousand_versions(library, limit):
    with pytest.raises(InvalidRecord, match="1 to 1000"):
        library.search(limit=limit)


@pytest.mark.parametrize("order", ["aliases", "name sideways", "name, version", "nmae", ""])
def test_a_sort_key_that_makes_no_sense_is_refused(library, order):
    with pytest.raises(QuerySyntax):
        library.search("", [order])
