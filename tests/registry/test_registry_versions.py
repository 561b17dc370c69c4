"""Registering, reading, tagging and deleting model versions."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from registry import (
    ArmRecord,
    ArtifactRefused,
    BentoRecord,
    Column,
    DefinitionConflict,
    ExperimentRecord,
    Input,
    InvalidRecord,
    InvalidReference,
    Metric,
    NotRecorded,
    Output,
    ServiceRecord,
    Signature,
    StillReferenced,
    VersionDraft,
)


def test_a_version_comes_back_as_it_was_registered(ledger, draft, lineage, clock):
    service, made_from = lineage(ledger)
    light, _ = lineage(ledger, "light")
    signature = Signature(
        (Input("user", service), Input("title", light, "float64")),
        (Output("play", meaning="probability of a play"), Output("top", "int64", (None, 10))),
        {"torch": "2.13.0", "numpy": "2.4"},
    )
    for weights in (7, 8):
        ledger.register(draft("retriever", weights=weights))
    before = clock()
    metrics = (
        Metric("auc", 0.71, split="test"),
        Metric("recall", 0.41, dataset="world", split="test", k=200),
    )
    registered = ledger.register(
        draft(
            metrics=metrics,
            params={"learning_rate": 1e-3, "epochs": 3, "mixed": True, "loss": "softmax"},
            tags={"source": "world", "ünïcode": "naïve ☃"},
            config={"towers": [64, 32], "temperature": 0.05, "none": None},
            seed=2**40,
            signature=signature,
            training_set=made_from,
            upstream={"retriever": "retriever"},
            source="matinee day",
            created_by="ada",
        )
    )
    read = ledger.get("ranker/1")
    assert read == registered
    assert (read.name, read.number, read.ref, read.seed) == ("ranker", 1, "ranker/1", 2**40)
    assert read.metrics == metrics
    assert read.params == {"learning_rate": "0.001", "epochs": "3", "mixed": "true", "loss": "softmax"}
    assert read.tags == {"source": "world", "ünïcode": "naïve ☃"}
    assert read.config == {"towers": [64, 32], "temperature": 0.05, "none": None}
    assert read.signature == signature
    assert read.upstream == {"retriever": "retriever/2"}
    assert (read.training_set, read.source, read.created_by) == (made_from, "matinee day", "ada")
    assert [(file.path, file.size, file.media_type) for file in read.files] == [
        ("model/config.json", len(b'{"layers": 0}'), "application/json"),
        ("report.md", len(b"# Offline evaluation"), "text/markdown"),
    ]
    assert before < read.created_at < clock()
    assert read.created_at.tzinfo is UTC


def test_the_same_draft_again_is_the_same_version(ledger, draft, clock):
    first = ledger.register(draft(tags={"day": "monday"}, created_by="ada"))
    again = ledger.register(
        draft(tags={"day": "tuesday"}, created_by="bob", metrics=[Metric("seconds", 3.0)])
    )
    assert again == first


@pytest.mark.parametrize(
    "change",
    [
        {"weights": 1},
        {"seed": 1},
        {"config": {"layers": 2}},
        {"params": {"epochs": 2}},
        {"signature": Signature(outputs=(Output("play"),))},
        {"source": "elsewhere"},
        {"service": "recorded"},
        {"training_set": "recorded"},
        {"upstream": {"retriever": "retriever/1"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_content_or_lineage_is_another_version(ledger, draft, lineage, change):
    service, made_from = lineage(ledger)
    ledger.register(draft("retriever"))
    change |= {"service": service} if "service" in change else {}
    change |= {"training_set": made_from} if "training_set" in change else {}
    assert [ledger.register(draft()).number, ledger.register(draft(**change)).number] == [1, 2]


def test_the_libraries_that_made_it_and_who_and_when_make_no_other_version(ledger, draft):
    first = ledger.register(draft(signature=Signature(framework={"torch": "2.13.0"})))
    assert ledger.register(draft(signature=Signature(framework={"torch": "2.14.0"}))) == first


def test_versions_of_other_inputs_in_another_order_or_under_another_name_are_others(ledger, draft, lineage):
    a, b = lineage(ledger)[0], lineage(ledger, "x")[0]
    read = [
        (Input("a", a), Input("b", b)), (Input("b", b), Input("a", a)), (Input("a", b), Input("b", a)),
        (Input("a", a, "float64"), Input("b", b)), (Input("a", a),),
    ]  # fmt: skip
    numbers = [ledger.register(draft(signature=Signature(inputs))).number for inputs in read]
    assert numbers == [1, 2, 3, 4, 5]
    assert [ledger.get(f"ranker/{number}").signature.inputs for number in numbers] == read


def test_a_version_it_stands_behind_is_pinned_by_number_and_cannot_be_deleted(ledger, draft):
    ledger.register(draft("retriever"))
    ledger.promote("retriever/1", "live", by="ada", reason="first")
    assert ledger.register(draft(upstream={"retriever": "retriever@live"})).upstream == {
        "retriever": "retriever/1"
    }
    ledger.remove_alias("retriever", "live", by="ada", reason="done")
    with pytest.raises(StillReferenced, match="'ranker/1', trained behind it"):
        ledger.delete("retriever/1")
    ledger.delete("ranker/1")
    ledger.delete("retriever/1")


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ({"signature": Signature((Input("x", "nowhere"),))}, "feature service 'nowhere'"),
        ({"upstream": {"retriever": "retriever/9"}}, "model 'retriever'"),
        ({"upstream": {"retriever": "ranker/9"}}, "model version 'ranker/9'"),
    ],
)
def test_a_version_made_from_what_is_not_recorded_is_refused_whole(ledger, draft, rest, said):
    ledger.register(draft())
    with pytest.raises(NotRecorded, match=said):
        ledger.register(draft(weights=1, **rest))
    assert [model.latest for model in ledger.models()] == [1]


def test_the_columns_of_each_input_are_the_features_of_its_service_in_order(ledger, draft, lineage):
    service, _ = lineage(ledger)
    some = ledger.record_service(ServiceRecord("light", ("f28", "f1")))
    ledger.register(draft(signature=Signature((Input("user", some), Input("title", service)))))
    columns = ledger.columns("ranker/1")
    assert list(columns) == ["user", "title"]
    assert [c.digest for c in columns["user"]] == ["f28", "f1"]
    assert columns["user"][1] == Column("user_activity", "watch_minutes_sum_1d", "f1", "FLOAT")
    assert columns["user"][1].reference == "user_activity:watch_minutes_sum_1d"
    assert [c.digest for c in columns["title"]] == ["f1", "f7", "f28"]
    assert ledger.columns(ledger.register(draft("popular")).ref) == {}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Signature((Input("a", "s"), Input("a", "t"))), "'a' twice among its inputs"),
        (lambda: Signature(outputs=(Output("p"), Output("p"))), "'p' twice among its outputs"),
        (lambda: Input("", "s"), "an input's name is ''"),
        (lambda: Output("p", shape=(0,)), "at least 1, or None"),
        (lambda: Signature(framework={"torch": ""}), "the version of torch is ''"),
    ],
)
def test_a_signature_that_says_nothing_or_twice_is_refused_where_it_is_made(made, said):
    with pytest.raises(InvalidRecord, match=re.escape(said)):
        made()


def test_numbers_count_within_a_model(ledger, draft):
    names = ["ranker", "retriever", "ranker", "ranker", "retriever"]
    registered = [ledger.register(draft(name, weights=n)).ref for n, name in enumerate(names)]
    assert registered == ["ranker/1", "retriever/1", "ranker/2", "ranker/3", "retriever/2"]


def test_a_number_is_not_used_again_after_its_version_is_deleted(ledger, draft):
    for weights in range(3):
        ledger.register(draft(weights=weights))
    ledger.delete("ranker/3")
    ledger.delete("ranker/2")
    assert ledger.register(draft(weights=2)).number == 4


def test_a_number_is_not_used_again_after_its_model_is_deleted_and_made_anew(ledger, draft):
    ledger.register(draft())
    ledger.delete("ranker/1")
    ledger.delete_model("ranker")
    assert ledger.models() == ()
    with pytest.raises(NotRecorded, match="model 'ranker'"):
        ledger.get("ranker")
    assert ledger.register(draft(description="second life")).number == 2
    assert [(model.name, model.description, model.latest) for model in ledger.models()] == [
        ("ranker", "second life", 2)
    ]


def test_a_model_with_versions_is_not_deleted(ledger, draft):
    ledger.register(draft())
    ledger.register(draft(weights=1))
    with pytest.raises(StillReferenced) as refusal:
        ledger.delete_model("ranker")
    assert refusal.value.referrers == ("ranker/1", "ranker/2")


@pytest.mark.parametrize("missing", ["training_set", "service"])
def test_a_version_of_unknown_lineage_leaves_nothing_behind(ledger, draft, raw, missing):
    with pytest.raises(NotRecorded, match="nowhere"):
        ledger.register(draft(**{missing: "nowhere"}))
    tables = ("registered_model", "model_version", "version_file", "artifact", "metric")
    assert [raw(f"SELECT count(*) FROM {table}") for table in tables] == [[(0,)]] * len(tables)


def test_a_version_without_files_is_refused(ledger):
    with pytest.raises(InvalidRecord, match="without files"):
        ledger.register(VersionDraft("ranker", {}))


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("rankr", "model 'rankr'. Did you mean 'ranker'?"),
        ("ranker/9", "model version 'ranker/9'. Did you mean 'ranker/1'?"),
        ("ranker@champ", "alias 'ranker@champ'. Did you mean 'ranker@champion'?"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(ledger, draft, asked, hint):
    ledger.register(draft())
    ledger.promote("ranker/1", by="ada", reason="first")
    with pytest.raises(NotRecorded) as missing:
        ledger.get(asked)
    assert hint in str(missing.value)


@pytest.mark.parametrize(
    "text", ["", "a/b", "a/0", "a/-1", "a@", "a/1@b", "a@b@c", "../x/1", "a/01", " a", "a\x00"]
)
def test_a_text_that_names_no_version_is_refused(ledger, text):
    with pytest.raises(InvalidReference, match=r"ranker@champion"):
        ledger.get(text)


def test_a_bare_name_means_the_newest_version(ledger, draft):
    for weights in range(11):
        ledger.register(draft(weights=weights))
    assert ledger.get("ranker").number == 11


def test_metrics_may_be_added_and_not_changed(ledger, draft):
    ledger.register(draft(metrics=[Metric("auc", 0.5, split="test")]))
    more = [
        Metric("auc", 0.5, split="test"),
        Metric("auc", 0.6, split="validation"),
        Metric("ndcg", 0.3, k=20),
    ]
    names = [(metric.name, metric.split) for metric in ledger.log_metrics("ranker/1", more).metrics]
    assert names == [("auc", "test"), ("auc", "validation"), ("ndcg_at_20", "")]
    with pytest.raises(DefinitionConflict, match="0.5 is recorded, 0.51 given"):
        ledger.log_metrics("ranker/1", [Metric("mrr", 0.2), Metric("auc", 0.51, split="test")])
    assert len(ledger.get("ranker/1").metrics) == 3, "nothing of a refused list is kept"


def test_tags_are_set_changed_and_removed(ledger, draft):
    ledger.register(draft(tags={"a": "1"}))
    ledger.tag("ranker/1", "b", "2")
    ledger.tag("ranker", "a", "one")
    assert ledger.get("ranker/1").tags == {"a": "one", "b": "2"}
    ledger.tag("ranker/1", "a", None)
    assert ledger.get("ranker/1").tags == {"b": "2"}


def test_deleting_what_is_referred_to_is_refused_with_the_list(ledger, draft):
    ledger.register(draft())
    ledger.promote("ranker/1", by="ada", reason="first")
    ledger.promote("ranker/1", "shadow", by="ada", reason="first")
    ledger.record_bento(BentoRecord("homepage:abc", "b1", ("ranker/1",)))
    ledger.record_experiment(
        ExperimentRecord("rows", "page", (ArmRecord("control", {"r": "ranker/1"}),)), by="ada"
    )
    ledger.start_experiment("rows", by="ada")
    with pytest.raises(StillReferenced) as refusal:
        ledger.delete("ranker/1")
    assert refusal.value.referrers == (
        "alias 'champion'", "alias 'shadow'", "Bento 'homepage:abc'", "arm 'rows/control' (running)",
    )  # fmt: skip
    assert ledger.get("ranker/1").number == 1


def test_deleting_takes_everything_that_hangs_on_the_version(ledger, draft, raw):
    ledger.register(draft(params={"epochs": 1}, tags={"a": "b"}))
    ledger.register(draft(weights=1))
    ledger.delete("ranker/1")
    with pytest.raises(NotRecorded):
        ledger.get("ranker/1")
    for table in ("version_file", "metric", "parameter", "tag"):
        assert raw(f"SELECT count(*) FROM {table} WHERE version_id = 1") == [(0,)]
    assert ledger.get("ranker/2").files


def test_only_a_number_says_what_to_delete(ledger, draft):
    ledger.register(draft())
    ledger.promote("ranker/1", by="ada", reason="first")
    for moving in ("ranker", "ranker@champion"):
        with pytest.raises(InvalidReference):
            ledger.delete(moving)


def test_fetched_files_are_the_registered_bytes(ledger, draft, tmp_path):
    ledger.register(draft(weights=5))
    folder = ledger.fetch("ranker", tmp_path / "out")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"model/config.json": b'{"layers": 5}', "report.md": b"# Offline evaluation"}
    assert ledger.read("ranker/1", "model/config.json") == b'{"layers": 5}'
    assert ledger.fetch("ranker", folder) == folder, "fetching again is fine"


def test_two_versions_never_mix_in_one_folder(ledger, draft, tmp_path):
    ledger.register(draft())
    ledger.register(draft(files={"other.json": b"{}"}))
    ledger.fetch("ranker/1", tmp_path / "out")
    with pytest.raises(ArtifactRefused, match="not of ranker/2"):
        ledger.fetch("ranker/2", tmp_path / "out")


def test_fetching_replaces_a_planted_link_instead_of_writing_through_it(ledger, draft, tmp_path):
    ledger.register(draft())
    outside = tmp_path / "precious.txt"
    outside.write_text("keep me")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.md").symlink_to(outside)
    ledger.fetch("ranker/1", tmp_path / "out")
    assert outside.read_text() == "keep me"
    assert (tmp_path / "out" / "report.md").read_bytes() == b"# Offline evaluation"


def test_files_may_come_from_disk(ledger, tmp_path):
    (tmp_path / "weights.json").write_bytes(b"[1, 2]")
    ledger.register(VersionDraft("ranker", {"weights.json": Path(tmp_path / "weights.json")}))
    assert ledger.read("ranker/1", "weights.json") == b"[1, 2]"


def test_times_in_other_zones_are_kept_as_the_same_instant_in_utc(ledger, training_set, raw):
    tokyo = timezone(timedelta(hours=9))
    start = datetime(2026, 1, 1, 8, 0, 0, 123456, tzinfo=tokyo)
    given = dataclasses.replace(
        training_set("zoned"), interval_start=start, interval_end=start + timedelta(hours=1)
    )
    ledger.record_training_set(given)
    ledger.record_training_set(given)  # the same instants, so no conflict
    ledger.register(VersionDraft("ranker", {"a.json": b"1"}, training_set="zoned"))
    (made,) = ledger.explain("ranker/1").training_sets
    assert made.interval_start == datetime(2025, 12, 31, 23, 0, 0, 123456, tzinfo=UTC)
    assert made.interval_start.tzinfo is UTC


def test_models_are_listed_with_their_newest_version_and_aliases(ledger, draft):
    for name, weights in [("ranker", 0), ("ranker", 1), ("artwork", 0)]:
        ledger.register(draft(name, weights=weights, description=f"the {name}"))
    ledger.promote("ranker/1", by="ada", reason="first")
    shown = [(m.name, m.description, m.versions, m.latest, m.aliases) for m in ledger.models()]
    assert shown == [("artwork", "the artwork", 1, 1, {}), ("ranker", "the ranker", 2, 2, {"champion": 1})]


def test_the_digest_of_a_service_depends_on_the_order_of_its_features():
    assert ServiceRecord("s", ("a", "b")).digest != ServiceRecord("s", ("b", "a")).digest
    assert ServiceRecord("s", ("a", "b")).digest != ServiceRecord("t", ("a", "b")).digest
