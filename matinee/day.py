"""One day's pipeline: import → compute → gate → materialize → train → promote → build, each skipped when unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from events.importing import load
from events.lake import Ingest
from feature_repo.compute import offline_path, run
from feature_repo.materialize import PROJECT, materialize
from feature_repo.snapshot import Generation, generations
from matinee.context import Day, fetched, world_config
from matinee.desk import literal
from matinee.gatekeeping import GateFailed, gate_note, record_gate
from matinee.lineage import record_declarations
from matinee.progress import Stage, Stages
from matinee.publishing import publish_champions
from matinee.pushing import catch_up
from matinee.recorded import table_steps
from matinee.reference import champions, training_references
from matinee.training import train_retriever_version
from matinee.training_artwork import train_artwork_version, train_quality_version
from matinee.training_ranker import train_ranker_version
from models.settings import RetrievalConfig
from registry import ModelVersion
from validations.report import GateReport

BATCHES = 150
"""About how many batches a source comes in; only the progress bar asks."""


def import_events(day: Day, stage: Stage) -> None:
    """Bring the source's events into the lake, once for each state of its settings."""
    marker = day.workspace.root / "imported.json"
    world = world_config(day.settings)
    wanted = {"source": day.workspace.source.name, "world": world.model_dump(mode="json")}
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        stage.skip("events are in the lake")
        return
    done: list[Ingest] = []

    def tell(ingest: Ingest) -> None:
        done.append(ingest)
        stage.step(len(done), BATCHES, f"{ingest.table}, {sum(i.accepted for i in done):,} rows")

    load(day.workspace.source.name, day.workspace.lake, day.settings.data, world=world, progress=tell)
    accepted, quarantined = sum(i.accepted for i in done), sum(i.quarantined for i in done)
    marker.write_text(json.dumps(wanted))
    stage.note = f"{accepted:,} rows accepted, {quarantined:,} quarantined"


def compute_features(day: Day, stage: Stage, as_ofs: Sequence[datetime] | None = None) -> None:
    """Compute the stored tables for every snapshot the day needs."""
    lake = day.workspace.lake
    steps = table_steps(day, as_ofs)
    stale = [step for step in steps if step.runs]
    if not stale:
        stage.skip(f"{len(steps)} tables are up to date")
        return
    done = iter(range(len(stale)))
    run(
        steps, day.workspace.source.name, lake.register, threads=day.settings.threads,
        progress=lambda step: stage.step(next(done), len(stale), step.table.name),
    )  # fmt: skip
    columns = sum(len(step.compute) for step in stale)
    stage.note = (
        f"{len(stale)} tables written, {columns:,} columns computed, {len(steps) - len(stale)} tables kept"
    )


def validate(
    day: Day, stage: Stage, as_ofs: Sequence[datetime] | None = None, *, drift: bool = True
) -> tuple[GateReport, ...]:
    """Put every computed table through the gate; the day's own are held against what the champions learned from.

    Without `drift` they are held against their contracts alone.

    Raises:
        GateFailed: with the reports of the tables that failed.
    """
    moments = list(as_ofs or day.split.as_ofs)
    tables = day.workspace.declarations.stored
    versions = champions(day.registry)
    learned = training_references(versions, day.workspace.source, day.workspace.offline, day.as_of)
    reports = []
    for number, moment in enumerate(moments):
        today = moment == day.as_of
        for table in tables:
            stage.step(number, len(moments), table.name)
            reference = learned.get(table.name) if today and drift else None
            if report := day.gatekeeper.check(table, moment, docs=today, reference=reference):
                record_gate(day.registry, report, moment, day.workspace.source.name)
                reports.append(report)
    if failed := tuple(report for report in reports if not report.passed):
        raise GateFailed(failed)
    if not reports:
        stage.skip(f"{len(moments) * len(tables)} tables had passed")
    else:
        stage.note = gate_note(reports)
    return tuple(reports)


def publish(day: Day, stage: Stage) -> Generation:
    """Materialize the day's tables into the online store, and plays known since, and publish a snapshot of it.

    Raises:
        NotValidated: a table has not passed the gate as it is now.
    """
    day.gatekeeper.require(day.as_of)
    declarations = day.workspace.declarations
    files = {t.name: offline_path(day.workspace.offline, t.name, day.as_of) for t in declarations.stored}
    before = generations(day.workspace.online)
    catch_up(day.desk, day.workspace.online, since=day.as_of)
    generation = materialize(declarations, files, day.workspace.online, PROJECT, catalogue(day))
    if generation.id in before:
        stage.skip(f"generation {generation.id} stands")
    else:
        stage.note = f"generation {generation.id}"
    return generation


def catalogue(day: Day) -> pa.Table:
    """What a page says of each title available at `as_of`: name, year, genres, images."""
    moment = literal(day.as_of)
    known = f"event_timestamp < {moment} AND created_timestamp < {moment}"
    with day.desk.events() as connection:
        return connection.sql(f"""
            SELECT t.title_id, t.name, t.release_year::INTEGER AS release_year, t.genres, t.available_from,
                   coalesce(a.artworks, []) AS artworks
            FROM (SELECT * FROM titles WHERE {known} AND available_from < {moment} QUALIFY row_number() OVER (
                      PARTITION BY title_id ORDER BY event_timestamp DESC, created_timestamp DESC) = 1) t
            LEFT JOIN (SELECT title_id, list(DISTINCT artwork_id ORDER BY artwork_id) AS artworks
                       FROM artworks WHERE {known} GROUP BY title_id) a USING (title_id)
            ORDER BY t.title_id""").to_arrow_table()


def train_retriever(day: Day, stage: Stage) -> ModelVersion:
    """Train, test and register the retriever."""
    record_declarations(day.registry, day.workspace.declarations)
    return train_retriever_version(day.bench, RetrievalConfig(seed=day.settings.seed), stage)


def train_ranker(day: Day, stage: Stage, retriever: str = "retriever") -> ModelVersion:
    """Train, test and register the ranker behind a retriever."""
    record_declarations(day.registry, day.workspace.declarations)
    behind = day.registry.get(retriever)
    return train_ranker_version(day.bench, behind, fetched(day, behind.ref), day.settings.ranker, stage)


def train_artwork(day: Day, stage: Stage) -> tuple[ModelVersion, ...]:
    """Train and register the creative-quality model and the artwork policy; nothing without artwork."""
    if not day.workspace.source.has("artworks", "impressions.artwork_id"):
        stage.skip(f"{day.workspace.source.name} has no artwork")
        return ()
    record_declarations(day.registry, day.workspace.declarations)
    quality = train_quality_version(day.bench, day.settings.seed, stage)
    folder = fetched(day, quality.ref)
    return (quality, train_artwork_version(day.bench, quality, folder, day.settings.seed, stage))


def promote(day: Day, versions: Sequence[ModelVersion], stage: Stage) -> None:
    """Point each model's champion at its new version, on the evidence recorded with it."""
    moved = []
    for version in versions:
        if "champion" not in version.aliases:
            day.registry.promote(version.ref, by="matinee day", reason=f"trained for {day.as_of.date()}")
            moved.append(version.ref)
    if moved:
        stage.note = ", ".join(moved)
    else:
        stage.skip("every champion stands")
    publish_champions(day)


def run_day(day: Day, stages: Stages) -> tuple[ModelVersion, ...]:
    """The whole day, up to promoted versions."""
    with stages.stage("import events") as stage:
        import_events(day, stage)
    with stages.stage("compute features") as stage:
        compute_features(day, stage)
    with stages.stage("gate") as stage:
        validate(day, stage)
    with stages.stage("materialize") as stage:
        publish(day, stage)
    with stages.stage("train retriever") as stage:
        retriever = train_retriever(day, stage)
    with stages.stage("train ranker") as stage:
        ranker = train_ranker(day, stage, retriever.ref)
    with stages.stage("train artwork") as stage:
        artwork = train_artwork(day, stage)
    versions = (retriever, ranker, *artwork)
    with stages.stage("promote") as stage:
        promote(day, versions, stage)
    return versions
