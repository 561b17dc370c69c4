"""What a feature reaches is answered from memory, and is what following every edge by hand would find."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from registry import (
    ArmRecord,
    BentoRecord,
    ExperimentRecord,
    FeatureRecord,
    Input,
    ServiceRecord,
    Signature,
    StillReferenced,
    TrainingSetRecord,
    open_registry,
)
from registry.edges import KnownEdges
from registry.lineage import VersionNode

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES = [f"f{n}" for n in range(6)]


class ByHand:
    """The same chain in lists, walked the slow and obvious way."""

    def __init__(self):
        self.services, self.sets, self.versions, self.bentos, self.arms = {}, {}, {}, {}, {}

    def impact(self, feature):
        services = {digest for digest, held in self.services.items() if feature in held}
        sets = {digest for digest, built in self.sets.items() if services & set(built)}
        versions = {
            ref for ref, (inputs, made, _) in self.versions.items() if services & set(inputs) or made in sets
        }
        while (
            more := {ref for ref, (*_, behind) in self.versions.items() if set(behind) & versions} - versions
        ):
            versions |= more
        bentos = {tag: [ref for ref in held if ref in versions] for tag, held in self.bentos.items()}
        return {
            "services": services,
            "sets": sets,
            "versions": versions,
            "bentos": {tag: set(held) for tag, held in bentos.items() if held},
            "arms": {arm for arm, ref in self.arms.items() if ref in versions},
        }


def asked(lineage):
    return {
        "services": {service.digest for service in lineage.services},
        "sets": {made.digest for made in lineage.training_sets},
        "versions": {version.ref for version in lineage.versions},
        "bentos": {bento.tag: set(bento.versions) for bento in lineage.bentos},
        "arms": {arm.ref for arm in lineage.arms},
    }


class Wanderer:
    """Does something to a ledger and to the lists, by chance."""

    def __init__(self, ledger, draft, seed):
        self.ledger, self.draft, self.rng, self.hand = ledger, draft, random.Random(seed), ByHand()
        self.count = 0
        ledger.record_features([FeatureRecord(name, f"name_{name}", "view", "FLOAT") for name in FEATURES])

    def step(self):
        self.count += 1
        names = [
            "service",
            "training_set",
            "version",
            "version",
            "version",
            "delete",
            "bento",
            "arm",
            "alias",
        ]
        getattr(self, self.rng.choice(names))()

    def some(self, of, most=2):
        return self.rng.sample(sorted(of), min(len(of), self.rng.randint(0, most)))

    def service(self):
        held = tuple(self.rng.sample(FEATURES, self.rng.randint(1, 3)))
        self.hand.services[self.ledger.record_service(ServiceRecord(f"s{self.count}", held))] = held

    def training_set(self):
        built = tuple(self.some(self.hand.services))
        start = NEW_YEAR + timedelta(days=self.rng.randint(0, 3))
        made = TrainingSetRecord(
            f"t{self.count}", "world", start, start + timedelta(days=1), 1, services=built
        )
        self.ledger.record_training_set(made)
        self.hand.sets[made.digest] = built

    def version(self):
        inputs, behind = self.some(self.hand.services), self.some(self.hand.versions)
        made = self.rng.choice([None, *self.hand.sets])
        signature = Signature(tuple(Input(f"i{n}", digest) for n, digest in enumerate(inputs)))
        upstream = {f"r{n}": ref for n, ref in enumerate(behind)}
        name = self.rng.choice(["a", "b", "c"])
        draft = self.draft(
            name, weights=self.count, signature=signature, training_set=made, upstream=upstream
        )
        self.hand.versions[self.ledger.register(draft).ref] = (inputs, made, behind)

    def delete(self):
        for ref in self.some(self.hand.versions, 1):
            try:
                self.ledger.delete(ref)
            except StillReferenced:
                continue
            del self.hand.versions[ref]

    def bento(self):
        held = self.some(self.hand.versions, 3)
        self.ledger.record_bento(BentoRecord(f"home:{self.count}", "d", tuple(held)))
        self.hand.bentos[f"home:{self.count}"] = held

    def arm(self):
        for ref in self.some(self.hand.versions, 1):
            name = f"e{self.count}"
            self.ledger.record_experiment(
                ExperimentRecord(name, "page", (ArmRecord("on", {"m": ref}),)), by="ada"
            )
            self.ledger.start_experiment(name, by="ada")
            self.hand.arms[f"{name}/on"] = ref

    def alias(self):
        for ref in self.some(self.hand.versions, 1):
            self.ledger.promote(ref, "live", by="ada", reason="chance")


@pytest.mark.parametrize("seed", range(6))
def test_what_a_feature_reaches_is_what_following_every_edge_by_hand_finds(ledger, draft, seed):
    wanderer = Wanderer(ledger, draft, seed)
    for _ in range(60):
        wanderer.step()
        if wanderer.count % 3 == 0:
            feature = wanderer.rng.choice(FEATURES)
            assert asked(ledger.impact(f"feature {feature}")) == wanderer.hand.impact(feature)
    found = ledger.impact("name_f0")
    assert [v.ref for v in found.versions] == [
        f"{name}/{number}" for name, number in sorted(key_of(v) for v in found.versions)
    ]
    for version in found.versions:
        whole = ledger.get(version.ref)
        assert version.aliases == whole.aliases
        assert version.upstream == tuple(whole.upstream[role] for role in sorted(whole.upstream))
        assert version.services == tuple(given.service for given in whole.signature.inputs)


def key_of(version: VersionNode):
    name, _, number = version.ref.rpartition("/")
    return name, int(number)


def test_what_another_process_did_is_seen_at_the_next_question(ledger, draft, lineage, url, tmp_path):
    service, _ = lineage(ledger)
    assert ledger.impact("feature f1").versions == ()
    with open_registry(url, str(tmp_path / "artifacts"), protected=()) as other:
        other.register(draft(service=service))
        assert [v.ref for v in ledger.impact("feature f1").versions] == ["ranker/1"]
        other.promote("ranker/1", "live", by="ada", reason="first")
        assert ledger.impact("feature f1").versions[0].aliases == ("live",)
        other.remove_alias("ranker", "live", by="ada", reason="done")
        other.delete("ranker/1")
        assert ledger.impact("feature f1").versions == ()
        other.register(draft(service=service))  # SQLite gives the row id out again
        assert [v.ref for v in ledger.impact("feature f1").versions] == ["ranker/2"]
        other.record_bento(BentoRecord("home:a", "d", ("ranker/2",)))
        assert [bento.tag for bento in ledger.impact("feature f1").bentos] == ["home:a"]


@pytest.fixture
def statements():
    """The tables that are read meanwhile."""
    sent = []

    def note(connection, cursor, statement, *rest):
        sent.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_while_nothing_new_is_recorded_neither_versions_nor_training_sets_are_read_again(
    ledger, draft, lineage, statements
):
    service, made = lineage(ledger)
    ledger.register(draft(service=service, training_set=made))
    first = ledger.impact("feature f1")
    statements.clear()
    assert ledger.impact("feature f1") == first
    assert not [s for s in statements if "version_input" in s or "FROM training_set " in s.replace("\n", " ")]
    ledger.promote("ranker/1", "live", by="ada", reason="aliases are asked for each time")
    assert ledger.impact("feature f1").versions[0].aliases == ("live",)


def test_very_many_versions_are_not_listed_in_a_query(ledger, draft, lineage, monkeypatch):
    service, _ = lineage(ledger)
    for weights in range(4):
        ledger.register(draft(weights=weights, service=service))
    ledger.register(draft("other"))
    for ref in ("ranker/2", "other/1"):
        name = f"e-{ref[:5]}"
        ledger.record_experiment(ExperimentRecord(name, "page", (ArmRecord("on", {"m": ref}),)), by="ada")
        ledger.start_experiment(name, by="ada")
    few = ledger.impact("feature f1")
    monkeypatch.setattr("registry.tracing.MANY", 3)
    assert ledger.impact("feature f1") == few
    assert [arm.version for arm in few.arms] == ["ranker/2"]


def test_services_are_kept_up_to_a_number_and_read_again_beyond_it(ledger):
    ledger.record_features([FeatureRecord(name, name, "view", "FLOAT") for name in FEATURES])
    digests = [ledger.record_service(ServiceRecord(f"s{n}", (name,))) for n, name in enumerate(FEATURES)]
    known = KnownEdges(most=2)
    with ledger._database.read() as session:
        for _ in range(2):
            for digest, name in zip(digests, FEATURES, strict=True):
                (service,) = known.services(session, [digest])
                assert (service.node.digest, [f.name for f in service.features]) == (digest, [name])
        assert [s.node.digest for s in known.services(session, digests)] == digests
        assert len(known._services) == 2


def test_many_threads_ask_while_others_register(ledger, draft, lineage):
    service, _ = lineage(ledger)

    def register(n):
        return ledger.register(draft(weights=n, service=service)).number

    def ask(_):
        return len(ledger.impact("feature f1").versions)

    with ThreadPoolExecutor(6) as pool:
        numbers = [pool.submit(register, n) for n in range(20)]
        counts = [pool.submit(ask, n) for n in range(20)]
    assert sorted(job.result() for job in numbers) == list(range(1, 21))
    assert all(0 <= job.result() <= 20 for job in counts)
    assert ask(0) == 20
