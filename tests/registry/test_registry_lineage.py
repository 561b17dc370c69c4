"""The chain both ways: from raw events to read-outs, and from a feature to everything it touches."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from registry import (
    ArmRecord,
    BentoRecord,
    ExperimentRecord,
    FeatureRecord,
    Input,
    NotRecorded,
    RegistryError,
    ServiceRecord,
    Signature,
    TrainingSetRecord,
)


def at(names):
    """(f1, f2 …): features by name, each with the digest `d-<name>`."""
    return [FeatureRecord(f"d-{name}", name, name.split("_")[0], "FLOAT") for name in names]


@pytest.fixture(scope="module")
def chain(module_ledger, draft):
    """Two services that share one feature, five versions, Bentos, and two experiments with a read-out each."""
    ledger = module_ledger
    ledger.record_features(at(["user_plays", "user_hovers", "title_plays", "user_unused"]))
    light = ledger.record_service(ServiceRecord("retrieval", ("d-user_plays", "d-title_plays")))
    heavy = ledger.record_service(ServiceRecord("ranking", ("d-user_hovers", "d-user_plays")))
    new_year = datetime(2026, 1, 1, tzinfo=UTC)
    for digest, services in [("t-light", (light,)), ("t-heavy", (heavy,)), ("t-free", ())]:
        ledger.record_training_set(
            TrainingSetRecord(digest, "world", new_year - timedelta(days=7), new_year, 10, services=services)
        )
    ledger.register(draft("retriever", service=light, training_set="t-light"))
    ledger.register(draft("ranker", service=heavy, training_set="t-heavy"))
    ledger.register(draft("ranker", weights=1, service=heavy, training_set="t-heavy"))
    ledger.register(draft("artwork", training_set="t-free"))
    ledger.register(draft("popularity", service=light))
    ledger.promote("ranker/2", by="ada", reason="first")
    ledger.record_bento(BentoRecord("homepage:a", "b1", ("ranker/2", "retriever/1")))
    ledger.record_bento(BentoRecord("artwork:a", "b2", ("artwork/1",)))
    for name, ref in [("rows", "ranker/1"), ("images", "artwork/1")]:
        arms = (ArmRecord("control", {"model": ref}), ArmRecord("treated", {"ranker": "ranker/2"}, {"w": 2}))
        ledger.record_experiment(ExperimentRecord(name, "page", arms), by="ada")
        ledger.start_experiment(name, by="ada")
        ledger.record_readout(name, {"sentence": f"{name}: no difference"})
    return ledger


def shown(lineage):
    """The names in a lineage, kind by kind, leaving out what is empty."""
    kinds = {
        "features": [feature.name for feature in lineage.features],
        "services": [service.name for service in lineage.services],
        "training_sets": [made.digest for made in lineage.training_sets],
        "versions": [version.ref for version in lineage.versions],
        "bentos": [bento.tag for bento in lineage.bentos],
        "arms": [arm.ref for arm in lineage.arms],
        "readouts": [readout.experiment for readout in lineage.readouts],
    }
    return {kind: names for kind, names in kinds.items() if names}


RANKER_2 = {
    "features": ["user_hovers", "user_plays"],
    "services": ["ranking"],
    "training_sets": ["t-heavy"],
    "versions": ["ranker/2"],
    "bentos": ["homepage:a"],
    "arms": ["rows/treated", "images/treated"],
    "readouts": ["rows", "images"],
}
BOTH_OF_ROWS = {**RANKER_2, "versions": ["ranker/1", "ranker/2"],
                "arms": ["rows/control", "rows/treated", "images/treated"]}  # fmt: skip


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("ranker@champion", RANKER_2),
        ("ranker/2", RANKER_2),
        ("model ranker", RANKER_2),
        ("rows/treated", RANKER_2),
        ("arm rows/treated", RANKER_2),
        (1, BOTH_OF_ROWS),
        ("readout 1", BOTH_OF_ROWS),
        ("experiment rows", BOTH_OF_ROWS),
        (
            "images/control",
            {"training_sets": ["t-free"], "versions": ["artwork/1"], "bentos": ["artwork:a"],
             "arms": ["images/control"], "readouts": ["images"]},
        ),
    ],
)  # fmt: skip
def test_explain_shows_the_whole_chain(chain, target, expected):
    assert shown(chain.explain(target)) == expected


EVERYTHING_OF_PLAYS = {
    "features": ["user_plays"],
    "services": ["ranking", "retrieval"],
    "training_sets": ["t-heavy", "t-light"],
    "versions": ["popularity/1", "ranker/1", "ranker/2", "retriever/1"],
    "bentos": ["homepage:a"],
    "arms": ["rows/control", "rows/treated", "images/treated"],
    "readouts": ["rows", "images"],
}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("feature user_plays", EVERYTHING_OF_PLAYS),
        ("user_plays", EVERYTHING_OF_PLAYS),
        ("d-user_plays", EVERYTHING_OF_PLAYS),
        (
            "feature title_plays",
            {"features": ["title_plays"], "services": ["retrieval"], "training_sets": ["t-light"],
             "versions": ["popularity/1", "retriever/1"], "bentos": ["homepage:a"]},
        ),
        ("feature d-user_unused", {"features": ["user_unused"]}),
        (
            "training_set t-free",
            {"training_sets": ["t-free"], "versions": ["artwork/1"], "bentos": ["artwork:a"],
             "arms": ["images/control"], "readouts": ["images"]},
        ),
        ("retriever/1", {"versions": ["retriever/1"], "bentos": ["homepage:a"]}),
        ("ranker@champion", {key: RANKER_2[key] for key in ("versions", "bentos", "arms", "readouts")}),
    ],
)  # fmt: skip
def test_impact_shows_everything_that_is_touched(chain, target, expected):
    assert shown(chain.impact(target)) == expected


@pytest.fixture
def towers(ledger, draft):
    """A retriever of two inputs, a ranker trained behind it, and an artwork policy behind that; another ranker alone."""
    ledger.record_features(at(["user_plays", "title_plays", "image_hue"]))
    user, title, image = (
        ledger.record_service(ServiceRecord(name, (f"d-{feature}",)))
        for name, feature in [("user", "user_plays"), ("title", "title_plays"), ("image", "image_hue")]
    )
    new_year = datetime(2026, 1, 1, tzinfo=UTC)
    ledger.record_training_set(
        TrainingSetRecord("t", "world", new_year - timedelta(days=7), new_year, 10, services=(user, title))
    )
    both = Signature((Input("user", user), Input("title", title)))
    ledger.register(draft("retriever", signature=both, training_set="t"))
    ledger.register(draft("ranker", service=user, upstream={"retriever": "retriever/1"}))
    ledger.register(draft("artwork", service=image, upstream={"shown": "ranker/1", "found": "retriever/1"}))
    ledger.register(draft("ranker", weights=1, service=image))
    ledger.promote("retriever/1", by="ada", reason="first")
    ledger.record_bento(BentoRecord("homepage:a", "b1", ("retriever/1",)))
    ledger.record_bento(BentoRecord("artwork:a", "b2", ("artwork/1",)))
    return ledger


def test_a_feature_of_any_input_reaches_the_version_and_those_trained_behind_it(towers):
    assert shown(towers.impact("feature title_plays")) == {
        "features": ["title_plays"],
        "services": ["title"],
        "training_sets": ["t"],
        "versions": ["artwork/1", "ranker/1", "retriever/1"],
        "bentos": ["homepage:a", "artwork:a"],
    }
    assert shown(towers.impact("ranker/1"))["versions"] == ["artwork/1", "ranker/1"]
    assert shown(towers.impact("training_set t"))["versions"] == ["artwork/1", "ranker/1", "retriever/1"]
    assert shown(towers.impact("image_hue"))["versions"] == ["artwork/1", "ranker/2"]


def test_explaining_a_version_explains_what_it_stands_behind_and_not_where_that_serves(towers):
    assert shown(towers.explain("artwork/1")) == {
        "features": ["image_hue", "title_plays", "user_plays"],
        "services": ["image", "title", "user"],
        "training_sets": ["t"],
        "versions": ["artwork/1", "ranker/1", "retriever/1"],
        "bentos": ["artwork:a"],
    }
    nodes = {node.ref: node for node in towers.explain("artwork/1").versions}
    assert nodes["artwork/1"].upstream == ("retriever/1", "ranker/1")  # by role: found, shown
    assert nodes["retriever/1"].aliases == ("champion",)
    services = {service.digest: service.name for service in towers.explain("retriever/1").services}
    assert [services[digest] for digest in nodes["retriever/1"].services] == ["user", "title"]
    (made,) = towers.explain("retriever/1").training_sets
    assert [services[digest] for digest in made.services] == ["user", "title"]
    drawn = arrows(towers.explain("ranker/1").to_mermaid())
    assert ("retriever/1 @champion", "ranker/1") in drawn
    assert {target for source, target in drawn if source.startswith("feature service title")} == {
        next(to for _, to in drawn if to.startswith("training set")), "retriever/1 @champion",
    }  # fmt: skip


def test_the_impact_of_a_service_is_that_of_its_features_within_it(chain):
    (digest,) = {service.digest for service in chain.impact("feature title_plays").services}
    assert shown(chain.impact(f"service {digest}")) == {
        "features": ["user_plays", "title_plays"],
        "services": ["retrieval"],
        "training_sets": ["t-light"],
        "versions": ["popularity/1", "retriever/1"],
        "bentos": ["homepage:a"],
    }


def test_a_service_lists_its_features_in_the_order_of_the_model(chain):
    (service,) = chain.explain("ranker/1").services
    assert service.features == ("d-user_hovers", "d-user_plays")


def test_the_chain_begins_with_the_interval_of_raw_events(chain):
    (made,) = chain.explain("ranker/1").training_sets
    assert (made.interval_start, made.interval_end) == (
        datetime(2025, 12, 25, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "target", "says"),
    [
        ("explain", "rankr", "Did you mean 'ranker'"),
        ("explain", "rows/treatd", "Did you mean 'treated'"),
        ("explain", "rws/treated", "Did you mean 'rows'"),
        ("explain", 99, "read-out '99'"),
        ("impact", "feature user_play", "Did you mean 'user_plays'"),
        ("impact", "training_set user_plays", "no training_set 'user_plays'"),
        ("impact", "nothing", "feature, service, training set or version 'nothing'"),
    ],
)
def test_what_cannot_be_traced_is_named(chain, ask, target, says):
    with pytest.raises(NotRecorded) as missing:
        getattr(chain, ask)(target)
    assert says in str(missing.value)


def test_a_draft_serves_nothing_yet(ledger, draft):
    ledger.register(draft())
    ledger.record_experiment(ExperimentRecord("rows", "page", (ArmRecord("a", {"r": "ranker"}),)), by="ada")
    with pytest.raises(RegistryError, match="draft"):
        ledger.explain("rows/a")


def test_a_lineage_is_json(chain):
    lineage = chain.explain("experiment rows")
    read = json.loads(json.dumps(lineage.to_dict()))
    assert read == lineage.to_dict()
    assert read["training_sets"][0]["interval_end"] == "2026-01-01T00:00:00+00:00"
    assert read["readouts"][0]["verdict"] == {"sentence": "rows: no difference"}


def arrows(mermaid):
    """The arrows of a flow chart as pairs of labels."""
    head, *lines = mermaid.split("\n")
    assert head == "flowchart LR"
    labels = dict(
        re.fullmatch(r'  (n\d+)\["([^"\[<>`]*(?:\[[^"<>`]*)?)"\]', line).groups()
        for line in lines
        if '"' in line
    )
    pairs = [line.strip().split(" --> ") for line in lines if '"' not in line]
    return {(labels[a], labels[b]) for a, b in pairs}


def test_the_flow_chart_leads_from_events_and_features_to_the_readout(chain):
    drawn = arrows(chain.explain("ranker@champion").to_mermaid())
    (service,) = chain.explain("ranker@champion").services
    box, made = f"feature service ranking {service.digest[:8]}", "training set t-heavy: 10 rows"
    assert drawn == {
        ("user: user_hovers", box),
        ("user: user_plays", box),
        (box, made),
        (box, "ranker/2 @champion"),
        ("events world [2025-12-25 00:00, 2026-01-01 00:00)", made),
        (made, "ranker/2 @champion"),
        ("ranker/2 @champion", "Bento homepage:a"),
        ("ranker/2 @champion", "arm rows/treated (running)"),
        ("ranker/2 @champion", "arm images/treated (running)"),
        ("arm rows/treated (running)", "read-out 1 of rows"),
        ("arm images/treated (running)", "read-out 2 of images"),
    }


def test_many_features_of_a_view_are_one_box_and_names_cannot_break_out_of_theirs(ledger, draft):
    odd = FeatureRecord("odd", 'a"]; click <b>`#', "odd", "FLOAT")
    ledger.record_features([*at([f"user_f{n}" for n in range(500)]), odd])
    digests = ("odd", *(f"d-user_f{n}" for n in range(500)))
    ledger.register(draft(service=ledger.record_service(ServiceRecord("ranking", digests))))
    drawn = {before for before, _ in arrows(ledger.explain("ranker").to_mermaid())}
    assert "user: 500 features" in drawn
    assert "odd: a#quot;]; click #lt;b#gt;#96;#35;" in drawn
    assert len(drawn) == 3


@pytest.fixture
def queries():
    """Counts the statements sent to any database meanwhile."""
    sent = []

    def note(connection, cursor, statement, *rest):
        if statement.lstrip().startswith("SELECT"):
            sent.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_questions_take_a_fixed_number_of_queries_however_much_there_is(ledger, draft, lineage, queries):
    service, made_from = lineage(ledger)

    def grow(start, end):
        for weights in range(start, end):
            ref = ledger.register(draft(weights=weights, service=service, training_set=made_from)).ref
            ledger.record_bento(BentoRecord(f"homepage:{weights}", "b", (ref,)))
            arms = (ArmRecord("control", {"ranker": ref}),)
            ledger.record_experiment(ExperimentRecord(f"e{weights}", "page", arms), by="ada")
            ledger.start_experiment(f"e{weights}", by="ada")
            ledger.record_readout(f"e{weights}", {"n": weights})

    def count():
        counts = []
        for ask in (
            lambda: ledger.explain("ranker/1"), lambda: ledger.impact("feature watch_minutes_sum_7d"),
            lambda: ledger.search("tags.a != 'x'"), ledger.live, ledger.models, ledger.experiments,
        ):  # fmt: skip
            ask()  # the first time reads what is then known
            queries.clear()
            ask()
            counts.append(len(queries))
        return counts

    grow(0, 2)
    few = count()
    grow(2, 8)
    assert count() == few
    assert max(few) <= 11
