"""MLflow's registry protocol: its 21 calls, as its own client makes them, on the ledger.

What is stricter here than there is a table in docs/mlflow.md. Requests may hold fields we do not know: a newer
client sends them, and MLflow's own server passes them over too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from registry import reading
from registry.http import catalogue, problems, sources, stages
from registry.http import mlflow_words as words
from registry.http.backend import Backend
from registry.http.catalogue import Entry
from registry.http.gate import ARTIFACTS, Call, calling
from registry.http.problems import Refused
from registry.http.tokens import Role
from registry.http.v1 import MLFLOW_PROBLEMS
from registry.http.views import Short, Text
from registry.records import VersionDraft, check_pair
from registry.results import ModelVersion
from registry.schema import AliasRow, ModelRow, TagRow, VersionRow
from registry.search import LARGEST_PAGE

Answer = dict[str, Any]
VersionNumber = Annotated[
    int, BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value),
    Field(ge=1, le=999_999_999),
]  # fmt: skip
"""A version's number, which MLflow writes as text."""


class Wire(BaseModel):
    """The root of MLflow's requests."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Pair(Wire):
    """A tag on the wire."""

    key: Short
    value: Annotated[Text, Field(max_length=100_000)] = ""


class Named(Wire):
    """A registered model."""

    name: Text


class Versioned(Named):
    """A version."""

    version: VersionNumber


class CreateModel(Named):
    """CreateRegisteredModel."""

    tags: tuple[Pair, ...] = ()
    description: Text = ""
    deployment_job_id: Text = ""


class Rename(Named):
    """RenameRegisteredModel."""

    new_name: Text


class Describe(Named):
    """UpdateRegisteredModel."""

    description: Text = ""
    deployment_job_id: Text = ""


class DescribeVersion(Versioned):
    """UpdateModelVersion."""

    description: Text = ""


class Latest(Named):
    """GetLatestVersions."""

    stages: tuple[Text, ...] = ()


class CreateVersion(Named):
    """CreateModelVersion."""

    source: Text
    run_id: Text = ""
    run_link: Text = ""
    description: Text = ""
    model_id: Text = ""
    tags: tuple[Pair, ...] = ()


class Transition(Versioned):
    """TransitionModelVersionStage."""

    stage: Text
    archive_existing_versions: bool = False


class ModelTag(Named, Pair):
    """SetRegisteredModelTag."""


class VersionTag(Versioned, Pair):
    """SetModelVersionTag."""


class ModelTagKey(Named):
    """DeleteRegisteredModelTag."""

    key: Short


class VersionTagKey(Versioned):
    """DeleteModelVersionTag."""

    key: Short


class AliasName(Named):
    """DeleteRegisteredModelAlias."""

    alias: Text


class AliasPlace(Versioned):
    """SetRegisteredModelAlias."""

    alias: Text


Caller = Annotated[Call, Depends(calling)]
MaxResults = Annotated[int, Query(ge=1, le=200_000)]
Filter = Annotated[Text, Query(alias="filter")]
OrderBy = Annotated[list[Text], Query(max_length=10)]
PageToken = Annotated[Text, Query()]


def router(backend: Backend, public_url: str | None = None) -> APIRouter:
    """Every endpoint of the protocol over one ledger. `public_url`: where clients reach this server."""
    api = APIRouter(prefix="/api/2.0/mlflow", tags=["mlflow"], responses=MLFLOW_PROBLEMS)
    speaker = _Speaker(backend, public_url)
    _model_routes(api, speaker)
    _model_edit_routes(api, speaker)
    _version_routes(api, speaker)
    _version_edit_routes(api, speaker)
    _alias_routes(api, speaker)
    return api


class _Speaker:
    """The ledger's values in MLflow's words."""

    def __init__(self, backend: Backend, public_url: str | None) -> None:
        self.backend, self._public_url = backend, public_url

    def location(self, request: Request, version: ModelVersion) -> str:
        """Where the files of a version are had over HTTP, whatever the client's tracking server is."""
        base = (self._public_url or str(request.base_url)).rstrip("/")
        return f"{base}{ARTIFACTS}/{quote(version.name)}/{version.number}"

    def version(self, request: Request, version: ModelVersion) -> Answer:
        return {"model_version": words.version_on_wire(version, self.location(request, version))}

    def versions(self, request: Request, found: Sequence[ModelVersion]) -> list[Answer]:
        return [words.version_on_wire(version, self.location(request, version)) for version in found]

    def models(self, request: Request, entries: Sequence[Entry]) -> list[Answer]:
        with self.backend.database.read() as session:
            ids = _latest_by_stage(session, [entry.id for entry in entries])
            latest = reading.by_ids(session, ids)
        by_name: dict[str, list[ModelVersion]] = {}
        for version in latest:
            by_name.setdefault(version.name, []).append(version)
        return [self._model(request, entry, by_name.get(entry.model.name, [])) for entry in entries]

    def model(self, request: Request, name: str) -> Answer:
        with self.backend.database.read() as session:
            entry = catalogue.entry(session, name)
        return {"registered_model": self.models(request, [entry])[0]}

    def _model(self, request: Request, entry: Entry, latest: Sequence[ModelVersion]) -> Answer:
        aliases = entry.model.aliases.items()
        return {
            "name": entry.model.name,
            "creation_timestamp": words.milliseconds(entry.model.created_at),
            "last_updated_timestamp": words.milliseconds(entry.touched),
            "description": entry.model.description,
            "latest_versions": self.versions(request, latest),
            "tags": [{"key": key, "value": value} for key, value in entry.tags.items()],
            "aliases": [{"alias": alias, "version": str(number)} for alias, number in aliases],
        }


def _model_routes(api: APIRouter, speaker: _Speaker) -> None:
    database = speaker.backend.database

    @api.get("/registered-models/get")
    def get(name: Text, request: Request) -> Answer:
        return speaker.model(request, name)

    @api.get("/registered-models/search")
    def search(
        request: Request, query: Filter = "", max_results: MaxResults = 100, order_by: OrderBy = [],  # noqa: B006
        page_token: PageToken = "",
    ) -> Answer:  # fmt: skip
        limit, order = min(max_results, LARGEST_PAGE), words.model_order(order_by)
        with database.read() as session:
            page = catalogue.search(session, words.our_query(query), order, limit, page_token or None)
        return {
            "registered_models": speaker.models(request, page.entries),
            "next_page_token": page.next_page_token or "",
        }

    @api.post("/registered-models/get-latest-versions")
    def latest_posted(body: Latest, request: Request) -> Answer:
        return {"model_versions": _latest(speaker, request, body.name, body.stages)}

    @api.get("/registered-models/get-latest-versions")
    def latest(name: Text, request: Request, stages: Annotated[list[Text], Query()] = []) -> Answer:  # noqa: B006
        return {"model_versions": _latest(speaker, request, name, stages)}


def _model_edit_routes(api: APIRouter, speaker: _Speaker) -> None:
    backend, database = speaker.backend, speaker.backend.database

    @api.post("/registered-models/create")
    def create(body: CreateModel, request: Request, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "create model", body.name)
        _refuse_job(body.deployment_job_id)
        with database.write() as session:
            tags = {tag.key: tag.value for tag in body.tags}
            catalogue.create(session, body.name, body.description, tags, backend.clock())
        return speaker.model(request, body.name)

    @api.post("/registered-models/rename")
    def rename(body: Rename, request: Request, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "rename model", f"{body.name} to {body.new_name}")
        with database.write() as session:
            catalogue.rename(session, body.name, body.new_name)
        return speaker.model(request, body.new_name)

    @api.patch("/registered-models/update")
    def update(body: Describe, request: Request, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "describe model", body.name)
        _refuse_job(body.deployment_job_id)
        with database.write() as session:
            catalogue.describe(session, body.name, body.description)
        return speaker.model(request, body.name)

    @api.delete("/registered-models/delete")
    def delete(body: Named, call: Caller) -> Answer:
        call.needs(Role.ADMIN, "delete model", body.name)
        backend.registry.delete_model(body.name)
        return {}

    @api.post("/registered-models/set-tag")
    def set_tag(body: ModelTag, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "tag model", f"{body.name} {body.key}")
        with database.write() as session:
            catalogue.tag(session, body.name, body.key, body.value)
        return {}

    @api.delete("/registered-models/delete-tag")
    def delete_tag(body: ModelTagKey, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "untag model", f"{body.name} {body.key}")
        with database.write() as session:
            catalogue.tag(session, body.name, body.key, None)
        return {}


def _version_routes(api: APIRouter, speaker: _Speaker) -> None:
    ledger = speaker.backend.registry

    @api.get("/model-versions/get")
    def get(name: Text, version: VersionNumber, request: Request) -> Answer:
        return speaker.version(request, ledger.get(f"{name}/{version}"))

    @api.get("/model-versions/search")
    def search(
        request: Request, query: Filter = "", max_results: MaxResults = 10_000, order_by: OrderBy = [],  # noqa: B006
        page_token: PageToken = "",
    ) -> Answer:  # fmt: skip
        order = [words.our_order(key) for key in order_by] or ["created_at DESC"]
        limit = min(max_results, LARGEST_PAGE)
        page = ledger.search(words.our_query(query), order, limit, page_token or None)
        return {
            "model_versions": speaker.versions(request, page.versions),
            "next_page_token": page.next_page_token or "",
        }

    @api.get("/model-versions/get-download-uri")
    def download_uri(name: Text, version: VersionNumber, request: Request) -> Answer:
        return {"artifact_uri": speaker.location(request, ledger.get(f"{name}/{version}"))}


def _version_edit_routes(api: APIRouter, speaker: _Speaker) -> None:
    backend, ledger = speaker.backend, speaker.backend.registry

    @api.post("/model-versions/create")
    def create(body: CreateVersion, request: Request, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "create version", f"{body.name} from {body.source}")
        version = ledger.register(_draft(backend, body, call))
        call.target = f"{version.ref} from {body.source}"
        return speaker.version(request, version)

    @api.patch("/model-versions/update")
    def update(body: DescribeVersion, request: Request, call: Caller) -> Answer:
        ref = f"{body.name}/{body.version}"
        call.needs(Role.ENGINEER, "describe version", ref)
        ledger.tag(ref, words.DESCRIPTION, body.description or None)
        return speaker.version(request, ledger.get(ref))

    @api.post("/model-versions/transition-stage")
    def transition(body: Transition, request: Request, call: Caller) -> Answer:
        ref = f"{body.name}/{body.version}"
        call.needs(Role.ENGINEER, "transition stage", f"{ref} to {body.stage}")
        archive = body.archive_existing_versions
        moved = stages.transition(backend, ref, body.stage, archive=archive, by=call.caller.name)
        return speaker.version(request, moved)

    @api.delete("/model-versions/delete")
    def delete(body: Versioned, call: Caller) -> Answer:
        ref = f"{body.name}/{body.version}"
        call.needs(Role.ADMIN, "delete version", ref)
        ledger.delete(ref)
        return {}

    @api.post("/model-versions/set-tag")
    def set_tag(body: VersionTag, call: Caller) -> Answer:
        ref = f"{body.name}/{body.version}"
        call.needs(Role.ENGINEER, "tag version", f"{ref} {body.key}")
        ledger.tag(ref, body.key, body.value)
        return {}

    @api.delete("/model-versions/delete-tag")
    def delete_tag(body: VersionTagKey, call: Caller) -> Answer:
        ref = f"{body.name}/{body.version}"
        call.needs(Role.ENGINEER, "untag version", f"{ref} {body.key}")
        ledger.tag(ref, body.key, None)
        return {}


def _alias_routes(api: APIRouter, speaker: _Speaker) -> None:
    ledger = speaker.backend.registry

    @api.get("/registered-models/alias")
    def get(name: Text, alias: Text, request: Request) -> Answer:
        return speaker.version(request, ledger.get(f"{name}@{alias}"))

    @api.post("/registered-models/alias")
    def place(body: AliasPlace, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "promote", f"{body.name}@{body.alias} to {body.version}")
        ref = f"{body.name}/{body.version}"
        ledger.promote(ref, body.alias, by=call.caller.name, reason="set by an MLflow client")
        return {}

    @api.delete("/registered-models/alias")
    def remove(body: AliasName, call: Caller) -> Answer:
        call.needs(Role.ENGINEER, "remove alias", f"{body.name}@{body.alias}")
        ledger.remove_alias(body.name, body.alias, by=call.caller.name, reason="deleted by an MLflow client")
        return {}


def _draft(backend: Backend, body: CreateVersion, call: Call) -> VersionDraft:
    """What a client wants registered. A run id is the digest of a training set: an edge that can be followed."""
    if body.model_id:
        raise Refused(problems.not_taken(f"model_id {body.model_id!r}: this registry has no logged models."))
    with backend.database.read() as session:
        reading.model(session, body.name)
    found = sources.find(backend, body.source, call.caller)
    notes = {words.DESCRIPTION: body.description, words.RUN_LINK: body.run_link}
    tags = {tag.key: tag.value for tag in body.tags} | {key: text for key, text in notes.items() if text}
    for key, value in tags.items():
        check_pair(key, value)
    rest: Mapping[str, Any] = {**found.rest, **({"training_set": body.run_id} if body.run_id else {})}
    who = call.caller.name
    return VersionDraft(body.name, found.files, tags=tags, source=body.source, created_by=who, **rest)


def _refuse_job(job: str) -> None:
    if job:
        raise Refused(
            problems.not_taken(f"deployment_job_id {job!r}: this registry runs no deployment jobs.")
        )


def _latest(speaker: _Speaker, request: Request, name: str, wanted: Sequence[str]) -> list[Answer]:
    kept = {words.canonical_stage(stage) for stage in wanted} or set(words.STAGES)
    with speaker.backend.database.read() as session:
        row = reading.model(session, name)
        latest = reading.by_ids(session, _latest_by_stage(session, [row.id]))
    return speaker.versions(request, [version for version in latest if words.stage_of(version) in kept])


def _latest_by_stage(session: sa.orm.Session, model_ids: Sequence[int]) -> list[int]:
    """Row ids of the newest version of each model in each stage it has, by model and number."""
    of_stages = AliasRow.alias.in_([alias for alias in words.STAGES.values() if alias])
    same = sa.and_(AliasRow.model_id == VersionRow.model_id, AliasRow.number == VersionRow.number)
    staged = sa.select(VersionRow.id).join(AliasRow, same).where(AliasRow.model_id.in_(model_ids), of_stages)
    held = sa.exists().where(same, of_stages)
    put_away = sa.select(TagRow.version_id).where(TagRow.key == words.STAGE, TagRow.value == "Archived")
    archived = (  # starts from the tags, of which there are few
        sa.select(sa.func.max(VersionRow.id))
        .where(VersionRow.id.in_(put_away), VersionRow.model_id.in_(model_ids), ~held)
        .group_by(VersionRow.model_id)
    )
    newest = (  # walks down from the newest version, and mostly stops there
        sa.select(VersionRow.id)
        .where(VersionRow.model_id == ModelRow.id, ~held, VersionRow.id.not_in(put_away))
        .order_by(VersionRow.number.desc())
        .limit(1)
        .correlate(ModelRow)
        .scalar_subquery()
    )
    plain = sa.select(newest).where(ModelRow.id.in_(model_ids))
    ids = {row_id for query in (staged, archived, plain) for row_id in session.scalars(query)} - {None}
    order = sa.select(VersionRow.id).where(VersionRow.id.in_(ids))
    return list(session.scalars(order.order_by(VersionRow.model_id, VersionRow.number)))
