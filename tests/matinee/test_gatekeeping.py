"""The gate in the pipeline: passed by content, held against the training reference, a few rows set aside."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from events.sources import WORLD
from feature_repo.compute import offline_path
from feature_repo.declarations import USER, Attribute, Declarations, Feature, FeatureTable, Weight
from feature_repo.planning import SET_ASIDE, Recorded, recorded, set_aside, step
from matinee.gatekeeping import Gatekeeper, NotValidated, gate_note
from matinee.periods import split
from matinee.reference import Champion, learned_at, training_references
from registry import ModelVersion, Signature
from validations.expectations import Between, DriftLimits, Limits, NullShare, Quarantine
from validations.gate import Reference
from validations.history import GateHistory

AS_OF = datetime(2026, 2, 5, tzinfo=UTC)
NOW = datetime(2026, 2, 5, 3, tzinfo=UTC)
ROWS = 2_000


def feature(name, *expect, drift=None):
    return Feature(name, Attribute(ibis.literal(1.0)), name, "plays", expect, frozenset(), drift=drift)


TABLE = FeatureTable(
    "user_profile", USER, Weight.LIGHT, "users",
    (feature("plays", Between(0, 100), NullShare(0)), feature("share", Between(0, 1))),
    quarantine=Quarantine(at_most=0.002),
)  # fmt: skip
RECORDED = Recorded("d" * 16, "b" * 16, {"plays": TABLE["plays"].digest, "share": TABLE["share"].digest})


def computed(plays=None, share=None, moved=0.0, rows=ROWS):
    """A computed table whose cells are replaced by (row, value)."""
    rng = np.random.default_rng(3)
    columns = {"plays": rng.integers(0, 9, rows).astype(float), "share": rng.random(rows) * 0.5 + moved}
    lists = {name: column.tolist() for name, column in columns.items()}
    for name, cells in (("plays", plays), ("share", share)):
        for row, value in (cells or {}).items():
            lists[name][row] = value
    moment = pa.array([AS_OF] * rows, pa.timestamp("us", "UTC"))
    table = pa.table({
        "user_id": pa.array(range(rows), pa.int64()), "event_timestamp": moment, "created_timestamp": moment,
        **{name: pa.array(cells, pa.float32()) for name, cells in lists.items()},
    })  # fmt: skip
    return table.replace_schema_metadata(RECORDED.to_metadata())


@dataclass
class Desk:
    """A gatekeeper over a folder with one table."""

    root: object
    table: FeatureTable = TABLE
    gatekeeper: Gatekeeper = field(init=False)

    def __post_init__(self):
        declared = Declarations("world", (self.table,), (), ())
        self.gatekeeper = Gatekeeper(self.root / "gate", self.root / "offline", declared, lambda: NOW)

    @property
    def path(self):
        return offline_path(self.root / "offline", self.table.name, AS_OF)

    def write(self, table, as_of=AS_OF):
        path = offline_path(self.root / "offline", self.table.name, as_of)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    def check(self, **options):
        return self.gatekeeper.check(self.table, AS_OF, **options)

    def passed(self):
        try:
            self.gatekeeper.require(AS_OF)
        except NotValidated:
            return False
        return True


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_what_passed_is_not_looked_at_again_until_a_byte_of_it_changes(desk):
    desk.write(computed())
    assert desk.check().passed
    assert desk.passed()
    assert desk.check() is None
    desk.write(computed(share={5: 0.25}))
    assert not desk.passed()
    assert desk.check().passed
    assert desk.passed()


def test_a_declaration_that_changes_runs_the_gate_again(desk, tmp_path):
    desk.write(computed())
    desk.check()
    other = Desk(tmp_path, replace(TABLE, drift=DriftLimits(psi=Limits(error=3))))
    assert not other.passed()
    assert other.check().passed


def test_a_report_tells_the_moment_the_file_and_the_table_as_it_was_asked_for(desk):
    path = desk.write(computed())
    report = desk.check()
    assert (report.as_of, report.at, report.rows) == (AS_OF, NOW, ROWS)
    assert report.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    (run,) = GateHistory(desk.gatekeeper.history).runs()
    assert (run.as_of, run.at, run.digest, run.passed) == (AS_OF, NOW, report.digest, True)


def test_a_few_rows_at_fault_are_set_aside_and_the_rest_passes_byte_for_byte(desk):
    whole = computed(plays={7: -1, 9: None}, share={7: 2})
    desk.write(whole)
    report = desk.check(docs=True)
    assert (report.passed, report.rows, report.quarantined) == (True, ROWS - 2, 2)
    assert {(f.column, f.expectation, f.severity, f.unexpected_count) for f in report.findings} == {
        ("plays", "between 0 and 100", "warning", 1), ("plays", "never null", "warning", 1),
        ("share", "between 0 and 1", "warning", 1),
    }  # fmt: skip
    assert report.digest == hashlib.sha256(desk.path.read_bytes()).hexdigest()
    assert pq.read_table(desk.path).equals(whole.take(np.setdiff1d(np.arange(ROWS), [7, 9])))
    assert pq.read_schema(desk.path).names == whole.schema.names
    assert desk.passed()
    assert "2 rows set aside" in gate_note([report])
    assert "Set aside</dt><dd>2 rows" in next((desk.gatekeeper.docs / "tables").rglob("*.html")).read_text()
    assert [p.name for p in desk.path.parent.iterdir()] == [desk.path.name]  # nothing half-written is left


def test_the_rows_set_aside_can_be_listed_with_their_keys_and_reasons(desk):
    desk.write(computed(plays={7: -1, 9: None}))
    desk.check()
    told = [
        {"table": "user_profile", "as_of": AS_OF, "key": [7], "row": 7,
         "reasons": [{"column": "plays", "expectation": "between 0 and 100", "value": "-1.0"}]},
        {"table": "user_profile", "as_of": AS_OF, "key": [9], "row": 9,
         "reasons": [{"column": "plays", "expectation": "never null", "value": None}]},
    ]  # fmt: skip
    assert list(desk.gatekeeper.set_aside()) == told
    (run,) = GateHistory(desk.gatekeeper.history).runs()
    assert (run.quarantined, run.warnings, run.errors) == (2, 2, 0)


def test_rows_beyond_the_declared_share_stop_the_table_which_stays_as_it_was(desk):
    path = desk.write(computed(plays=dict.fromkeys(range(5), -1)))  # 5 of 2,000 against 0.002
    before = path.read_bytes()
    report = desk.check()
    assert (report.passed, report.quarantined) == (False, 0)
    assert path.read_bytes() == before
    assert not desk.passed()
    assert list(desk.gatekeeper.set_aside()) == []


def test_without_a_declaration_a_single_row_stops_the_table(tmp_path):
    desk = Desk(tmp_path, replace(TABLE, quarantine=None))
    desk.write(computed(plays={7: -1}))
    assert not desk.check().passed
    assert not desk.passed()


def test_a_table_that_fails_for_another_reason_too_is_left_whole(desk):
    path = desk.write(computed(plays={7: -1}).drop_columns("share"))
    before = path.read_bytes()
    report = desk.check(docs=True)
    assert not report.passed
    assert {(f.column, f.severity) for f in report.findings} == {("plays", "error"), ("share", "error")}
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert "Set aside</dt><dd>none" in next((desk.gatekeeper.docs / "tables").rglob("*.html")).read_text()


def test_a_crash_after_the_file_was_replaced_does_not_make_the_missing_rows_silent(desk):
    desk.write(computed(plays={7: -1}))
    desk.check()
    (desk.gatekeeper.folder / "passed.json").unlink()  # what is written last was not written
    report = desk.check()
    assert (report.passed, report.quarantined) == (True, 1)
    assert [(f.column, f.severity) for f in report.findings] == [("plays", "warning")]
    assert len(list(desk.gatekeeper.set_aside())) == 1


def test_a_crash_before_the_file_was_replaced_comes_to_the_same_end(desk, tmp_path):
    other = Desk(tmp_path / "other")
    for one in (desk, other):
        one.write(computed(plays={7: -1}))
        one.check()
    other.write(computed(plays={7: -1}))  # the rows are set aside already; the file still has them
    assert not other.passed()
    assert other.check().quarantined == 1
    assert other.path.read_bytes() == desk.path.read_bytes()
    assert list(other.gatekeeper.set_aside()) == list(desk.gatekeeper.set_aside())


def test_rows_set_aside_of_a_file_that_was_computed_anew_are_forgotten(desk):
    desk.write(computed(plays={7: -1}))
    desk.check()
    desk.write(computed())
    assert list(desk.gatekeeper.set_aside()) == []
    report = desk.check()
    assert (report.passed, report.quarantined, report.findings) == (True, 0, ())
    assert not desk.gatekeeper.quarantined("user_profile", AS_OF).exists()


def test_a_file_without_rows_set_aside_says_so_and_is_computed_whole_when_a_feature_changes(desk):
    """Columns computed anew hold every entity: they cannot be merged into a file that lacks some."""
    desk.write(computed(plays={7: -1}))
    desk.check()
    held = recorded(desk.path)
    assert (held, set_aside(desk.path)) == (RECORDED, 1)
    assert pq.read_metadata(desk.path).metadata[SET_ASIDE.encode()] == b"1"
    changed = replace(TABLE, features=(TABLE["plays"], replace(TABLE["share"], over=7)))
    assert step(changed, AS_OF, desk.path, held.base, held).compute == ("plays", "share")
    assert step(changed, AS_OF, desk.path, held.base, RECORDED).compute == ("share",)


def test_drift_beyond_what_is_declared_critical_stops_the_table(tmp_path):
    critical = DriftLimits(psi=Limits(warning=0.2, error=1))
    desk = Desk(tmp_path, replace(TABLE, drift=critical))
    desk.write(computed(moved=0.4))
    reference = Reference("yesterday", computed())
    report = desk.check(reference=reference)
    assert not report.passed
    assert [(f.column, f.severity) for f in report.findings] == [("share", "error")]
    assert not desk.passed()
    assert GateHistory(desk.gatekeeper.history).runs(failed=True)[0].reference == "yesterday"
    desk.write(computed(moved=0.02))
    report = desk.check(reference=reference)
    assert (report.passed, [f.severity for f in report.findings]) == (True, ["warning"])


def test_one_feature_may_be_exempt_from_drift(tmp_path):
    free = DriftLimits(psi=Limits(), ks=Limits())
    table = replace(TABLE, features=(TABLE["plays"], replace(TABLE["share"], drift=free)))
    desk = Desk(tmp_path, table)
    desk.write(computed(moved=0.4))
    assert desk.check(reference=Reference("yesterday", computed())).findings == ()


def test_rows_are_not_set_aside_for_drift(tmp_path):
    desk = Desk(tmp_path, replace(TABLE, drift=DriftLimits(psi=Limits(error=0.2))))
    path = desk.write(computed(moved=0.4, plays={7: -1}))
    before = path.read_bytes()
    report = desk.check(reference=Reference("yesterday", computed()))
    assert not report.passed
    assert path.read_bytes() == before


def champion(name, trained, *tables):
    """A champion, as the ledger hands it out, that reads `tables`."""
    version = ModelVersion(
        name=name, number=1, digest="d", created_at=NOW, created_by="test", source="world", config={}, seed=0,
        signature=Signature(), training_set=None, upstream={},
        metrics=(), params={}, tags={"as_of": trained.isoformat()}, aliases=("champion",), files=(),
    )  # fmt: skip
    return Champion(version, frozenset(tables))


DAY = timedelta(days=1)


def test_the_reference_is_the_newest_snapshot_a_champion_was_fitted_to_and_not_one_that_tested_it(tmp_path):
    ranker = champion("ranker", AS_OF, "user_profile", "title_profile")
    assert learned_at(ranker.version, WORLD) == split(WORLD, AS_OF).train[-1].start == AS_OF - 3 * DAY
    found = training_references([ranker], WORLD, tmp_path, AS_OF + DAY)
    assert set(found) == {"user_profile", "title_profile"}
    assert found["user_profile"].data == offline_path(tmp_path, "user_profile", AS_OF - 3 * DAY)
    assert (
        found["user_profile"].name == "user_profile as of 2026-02-02 00:00 UTC, which ranker/1 learned from"
    )


def test_a_model_of_images_learned_from_the_day_it_was_trained(tmp_path):
    quality = champion("creative_quality", AS_OF, "artwork_profile")
    assert learned_at(quality.version, WORLD) == AS_OF
    assert training_references([quality], WORLD, tmp_path, AS_OF) == {}  # nothing drifts from itself
    assert set(training_references([quality], WORLD, tmp_path, AS_OF + DAY)) == {"artwork_profile"}


def test_where_several_champions_read_a_table_the_one_trained_longest_ago_counts(tmp_path):
    old, new = (
        champion("ranker", AS_OF - 9 * DAY, "user_profile"),
        champion("artwork", AS_OF, "user_profile"),
    )
    for order in ([old, new], [new, old]):
        assert "ranker/1" in training_references(order, WORLD, tmp_path, AS_OF)["user_profile"].name


def test_the_first_day_says_that_drift_was_not_measured(desk, tmp_path):
    assert training_references([], WORLD, tmp_path, AS_OF) == {}
    desk.write(computed())
    report = desk.check()
    assert report.reference == ""
    assert gate_note([report]).endswith("drift not measured, as no champion learned from earlier tables")
    assert "not measured" not in gate_note([replace(report, reference="yesterday")])
    assert json.loads(json.dumps(report.to_dict()))["reference"] == ""


def test_a_file_written_while_it_was_read_has_not_passed(desk):
    """The clock is read between the look at the bytes and the check of them: there the other writer comes in."""
    desk.write(computed())

    def clock():
        desk.write(computed(share={5: 0.25}))
        return NOW

    report = replace(desk.gatekeeper, clock=clock).check(TABLE, AS_OF)
    assert report.passed
    assert not desk.passed()
    assert desk.check().passed
    assert desk.passed()
