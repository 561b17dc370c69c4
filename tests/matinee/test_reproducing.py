"""Does a version fit what is live, and does training it again give it again? Asked of a small world's day."""

import json
from dataclasses import replace

import pytest

from matinee.checking import NothingToCheck, check
from matinee.day import fetched
from matinee.lineage import framework
from matinee.progress import Stages
from matinee.reproducing import NotReproducible, changed_features, reproduce
from matinee.session import console
from registry import FeatureRecord, Input, NotRecorded, ServiceRecord, Signature, VersionDraft

pytestmark = pytest.mark.slow


@pytest.fixture
def variant(copied_day):
    """Registers a version like another but for what is said; returns it."""

    def make(ref, name=None, **changes):
        was = copied_day.registry.get(ref)
        folder = fetched(copied_day, ref)
        draft = VersionDraft(
            name or was.name, {path.name: path for path in sorted(folder.iterdir())}, metrics=was.metrics,
            config=was.config, seed=was.seed, tags=was.tags, signature=was.signature,
            training_set=was.training_set, upstream=was.upstream, source=was.source,
        )  # fmt: skip
        return copied_day.registry.register(replace(draft, **changes))

    return make


def again(day, ref):
    with Stages(console) as stages, stages.stage("again") as stage:
        return reproduce(day, ref, stage)


@pytest.mark.parametrize("model", ["retriever", "artwork"])
def test_a_version_trained_again_from_what_is_recorded_of_it_is_the_same_to_the_last_byte(command, model):
    outcome = json.loads(command(f"matinee models reproduce {model}/1 --json | sed -n '/^{{/,$p'").stdout)
    assert outcome == {
        "ref": f"{model}/1", "circumstances": [], "files": [], "inside": [], "measured": {}, "equal": True,
    }  # fmt: skip


def test_another_config_gives_another_model_and_the_report_says_where_and_by_how_much(
    copied_day, variant, command
):
    made = variant("creative_quality/1", config={"folds": 5, "ridges": [7.0], "confidence": 0.95})
    outcome = again(copied_day, made.ref)
    assert not outcome.equal
    assert "weights.safetensors" in outcome.files
    assert any(d.part == "weights.safetensors weights" and d.largest > 0 for d in outcome.inside)
    assert any("config.json ridges" in str(d) for d in outcome.inside)
    recorded, now = outcome.measured["ridge (cross-validated)"]
    assert (recorded != now, now) == (True, 7.0)
    shown = command(f"matinee models reproduce {made.ref}", fails=True).stdout
    assert "differs" in shown
    assert "weights.safetensors weights: " in shown


def test_what_is_not_as_it_was_is_said_beside_the_outcome(copied_day, variant):
    was = copied_day.registry.get("creative_quality/1")
    learned = copied_day.registry.training_set(was.training_set)
    events = {**learned.event_digests, "plays": "other"}
    copied_day.registry.record_training_set(replace(learned, digest="late", event_digests=events))
    then = Signature(was.signature.inputs, was.signature.outputs, {**framework(), "torch": "1.13.1"})
    made = variant(was.ref, signature=then, training_set="late", tags={**was.tags, "threads": "1"})
    outcome = again(copied_day, made.ref)
    events, torch, learned_from = outcome.circumstances
    assert events.startswith("events: 'plays' before 2026-01-15 00:00 UTC is not what it was")
    assert torch.startswith("torch: 1.13.1 then, 2.13")
    assert learned_from.startswith(f"training set: late ({learned.rows:,} rows) then, {was.training_set} ")
    assert not outcome.files


def test_a_feature_that_was_declared_anew_ends_it_before_anything_is_trained(copied_day, variant):
    ledger = copied_day.registry
    columns = ledger.columns("creative_quality/1")["image"]
    ledger.record_features(
        [FeatureRecord("0123", columns[0].name, columns[0].view, "BIGINT", {"unit": "days"})]
    )
    old = ledger.record_service(ServiceRecord("artwork_image", ("0123", *(c.digest for c in columns[2:]))))
    made = variant("creative_quality/1", signature=Signature((Input("image", old),)))
    with pytest.raises(NotReproducible) as refusal:
        again(copied_day, made.ref)
    changed, added = refusal.value.reasons
    assert changed == f"input 'image': {columns[0].reference}: trained on 0123, live is {columns[0].digest}"
    assert added == f"input 'image': {columns[1].reference}: added since"
    fit = check(copied_day, made.ref)
    (difference,) = fit.inputs[0].differences  # one more feature online is no reason not to serve
    assert not fit.fits
    assert "dtype 'BIGINT' → 'FLOAT'" in difference
    assert "unit 'days' → " in difference


def test_a_service_that_is_not_declared_any_more_is_named(copied_day, variant):
    digest = copied_day.registry.columns("creative_quality/1")["image"][0].digest
    gone = copied_day.registry.record_service(ServiceRecord("gone", (digest,)))
    made = variant("creative_quality/1", signature=Signature((Input("image", gone, "float64"),)))
    assert changed_features(copied_day, made) == (
        "input 'image': no feature service 'gone' is declared any more",
    )
    missing, dtype = check(copied_day, made.ref).inputs[0].differences
    assert missing.endswith(": missing")
    assert dtype == "dtype: the model takes float64, the store gives float32"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "kuairand"}, "say --source kuairand"),
        (
            {"name": "popular"},
            "only retriever, ranker, creative_quality, artwork are trained by this pipeline",
        ),
        ({"tags": {}}, "no training set or `as_of` is recorded"),
        ({"training_set": None}, "no training set or `as_of` is recorded"),
    ],
)
def test_what_our_pipeline_did_not_train_is_not_trained_again(copied_day, variant, changes, said):
    with pytest.raises(NotReproducible, match=said):
        again(copied_day, variant("creative_quality/1", seed=99, **changes).ref)


def test_without_the_version_it_stands_behind_there_is_nothing_to_repeat(copied_day, variant):
    with pytest.raises(NotReproducible, match="which quality it was trained behind is not recorded"):
        again(copied_day, variant("artwork/1", upstream={}).ref)


def test_every_model_of_a_day_fits_what_the_day_published(copied_day, command):
    for model in ("retriever", "ranker", "creative_quality", "artwork"):
        fit = check(copied_day, f"{model}/1")
        assert fit.fits
        assert fit.libraries == ()
        assert [len(copied_day.registry.columns(fit.ref)[given.name]) for given in fit.inputs] == [
            given.columns for given in fit.inputs
        ]
    assert "ranker/1 fits snapshot" in command("matinee models check ranker@champion").stdout


def test_other_libraries_are_worth_a_look_and_no_reason_to_refuse(copied_day, variant, command):
    was = copied_day.registry.get("artwork/1").signature
    libraries = {"torch": "1.13.1", "python": "3.11.0", "gone-for-good": "2"}
    made = variant("artwork/1", seed=7, signature=Signature(was.inputs, was.outputs, libraries))
    shown = command(f"matinee models check {made.ref}").stdout
    assert f"worth a look: {made.ref} was made with torch 1.13.1; here is 2.13" in shown
    assert f"{made.ref} was made with gone-for-good 2; here is none" in shown
    assert "python" not in shown


def test_a_version_that_names_no_inputs_neither_fits_nor_does_not(copied_day, variant):
    made = variant("artwork/1", seed=8, signature=Signature())
    with pytest.raises(NothingToCheck, match=made.ref):
        check(copied_day, made.ref)
    with pytest.raises(NotRecorded):
        check(copied_day, "artwork/99")
