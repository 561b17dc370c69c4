"""Our own API, version 1: what `registry.Registry` does, over HTTP.

Every endpoint is one call of the ledger. What the ledger refuses comes out as in `registry.http.problems`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from registry.documents import SUFFIXES
from registry.documents import one as one_document
from registry.drawing import to_svg
from registry.http import catalogue
from registry.http.audit import Entry
from registry.http.backend import Backend
from registry.http.gate import Call, calling
from registry.http.tokens import Role
from registry.http.views import (
    CallerView,
    ColumnView,
    DocumentView,
    EntryView,
    ExperimentView,
    LiveView,
    MetricsView,
    MlflowProblemView,
    ModelView,
    MoveView,
    Number,
    PageView,
    ProblemView,
    PromotionView,
    ReadoutView,
    ReasonView,
    TagView,
    Text,
    VersionView,
    View,
)
from registry.lineage import Lineage
from registry.media import TYPES
from registry.promotion import ANYWHERE
from registry.reading import file_digest
from registry.reading import version as version_row
from registry.records import Metric
from registry.refs import parse_ref
from registry.results import (
    AliasMove,
    Document,
    Experiment,
    Live,
    ModelVersion,
    Page,
    Readout,
    RegisteredModel,
)
from registry.signature import Column
from registry.states import RunState

MEANINGS = {
    400: "a body that cannot be read",
    401: "no token, or none that is good",
    403: "the token's role does not allow this",
    404: "there is no such thing; the message names what there is",
    409: "the state of things does not allow this step, or somebody was faster",
    413: "the body is too large",
    422: "a field that cannot be understood, or evidence that is lacking",
    429: "this token asks too often; see Retry-After",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemView, "description": meaning} for status, meaning in MEANINGS.items()
}
MLFLOW_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": MlflowProblemView, "description": meaning} for status, meaning in MEANINGS.items()
}
MLFLOW_PROBLEMS[422]["description"] = "never: MLflow answers 400 to what it cannot understand"
Limit = Annotated[int, Query(ge=1, le=1000, description="How many on a page.")]
Because = Annotated[Text, Query(min_length=1, max_length=1000, description="Why; it stays in the history.")]
Token = Annotated[Text | None, Query(description="`next_page_token` of the page before.")]


OrderBy = Annotated[list[Text], Query(max_length=10, description="Such as `metrics.recall_at_200 DESC`.")]
Seen = Annotated[int, Query(ge=0, le=2**31 - 1, description="The last id already seen.")]
Caller = Annotated[Call, Depends(calling)]
Format = Literal["json", "mermaid", "svg"]
Shown = Annotated[
    Format, Query(alias="format", description="All of it as JSON, or a graph: Mermaid's text, or a picture.")
]
MERMAID, SVG = "application/vnd.mermaid", "image/svg+xml"  # both as registered with IANA
GRAPHS: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in (MERMAID, SVG)}}
}
NOT_RUN = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
"""Headers of what holds names or files that others chose: a browser shows it, and runs nothing of it with our origin."""


SHOWN_NOT_RUN = NOT_RUN | {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
}
"""Headers of a page that may have a style of its own, and nothing else that a browser would run or fetch."""
DOCUMENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {TYPES[suffix]: {"schema": {"type": "string"}} for suffix in SUFFIXES}}
}


class ModelsView(View):
    """One page of models."""

    models: tuple[ModelView, ...]
    next_page_token: str | None


def router(backend: Backend) -> APIRouter:
    """Every endpoint of the API over one ledger."""
    api = APIRouter(prefix="/v1", tags=["v1"], responses=PROBLEMS)
    _model_routes(api, backend)
    _version_routes(api, backend)
    _document_routes(api, backend)
    _version_edit_routes(api, backend)
    _alias_routes(api, backend)
    _alias_edit_routes(api, backend)
    _chain_routes(api, backend)
    _people_routes(api, backend)
    return api


def _model_routes(api: APIRouter, backend: Backend) -> None:
    @api.get("/models", summary="Models by name", response_model=ModelsView)
    def models(query: Text = "", limit: Limit = 100, page_token: Token = None) -> Any:
        """The models a query over `name` and `tags` holds for, such as `name LIKE 'rank%'`."""
        with backend.database.read() as session:
            page = catalogue.search(session, query, ("name", False), limit, page_token)
        found = tuple(ModelView.model_validate(entry.model) for entry in page.entries)
        return ModelsView(models=found, next_page_token=page.next_page_token)

    @api.get("/models/{name}", summary="One model", response_model=ModelView)
    def model(name: Text) -> RegisteredModel:
        with backend.database.read() as session:
            return catalogue.entry(session, name).model

    @api.delete("/models/{name}", summary="Delete a model without versions", status_code=204)
    def delete_model(name: Text, call: Caller) -> None:
        call.needs(Role.ADMIN, "delete model", name)
        backend.registry.delete_model(name)


def _version_routes(api: APIRouter, backend: Backend) -> None:
    ledger = backend.registry

    @api.get("/versions", summary="Search versions", response_model=PageView)
    def search(
        query: Text = "", order_by: OrderBy = [], limit: Limit = 100, page_token: Token = None  # noqa: B006
    ) -> Page:  # fmt: skip
        """The versions a query holds for, such as `metrics.recall_at_200 > 0.3 and tags.team = 'home'`."""
        return ledger.search(query, order_by, limit, page_token)

    @api.get("/models/{name}/versions/{number}", summary="One version", response_model=VersionView)
    def version(name: Text, number: Number) -> ModelVersion:
        return ledger.get(f"{name}/{number}")

    @api.get(
        "/models/{name}/versions/{number}/inputs",
        summary="What a version reads, column by column",
        response_model=dict[str, tuple[ColumnView, ...]],
    )
    def inputs(name: Text, number: Number) -> dict[str, tuple[Column, ...]]:
        return ledger.columns(f"{name}/{number}")

    @api.get(
        "/models/{name}/versions/{number}/files/{path:path}", summary="One file, checked against its digest",
        response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}},
    )  # fmt: skip
    def file(name: Text, number: Number, path: Text) -> Response:
        return file_answer(ledger.get(f"{name}/{number}"), path, backend)


def _document_routes(api: APIRouter, backend: Backend) -> None:
    ledger = backend.registry

    @api.get(
        "/models/{name}/versions/{number}/documents",
        summary="Reports and figures beside a version",
        response_model=tuple[DocumentView, ...],
    )
    def documents(name: Text, number: Number) -> tuple[Document, ...]:
        return ledger.documents(f"{name}/{number}")

    @api.get(
        "/models/{name}/versions/{number}/documents/{file}",
        summary="One document, checked against its digest",
        response_class=Response,
        responses=DOCUMENTS,
    )
    def document(name: Text, number: Number, file: Text) -> Response:
        """To be looked at in a browser, which runs nothing of it and fetches nothing for it."""
        with backend.database.read() as session:
            found = one_document(session, version_row(session, parse_ref(f"{name}/{number}")), file)
        headers = {"ETag": f'"{found.sha256}"', **SHOWN_NOT_RUN}
        return Response(backend.store.read(found.sha256), media_type=found.media_type, headers=headers)


def _version_edit_routes(api: APIRouter, backend: Backend) -> None:
    ledger = backend.registry

    @api.put("/models/{name}/versions/{number}/tags/{key}", summary="Set a tag", status_code=204)
    def set_tag(name: Text, number: Number, key: Text, tag: TagView, call: Caller) -> None:
        call.needs(Role.ENGINEER, "tag version", f"{name}/{number} {key}")
        ledger.tag(f"{name}/{number}", key, tag.value)

    @api.delete("/models/{name}/versions/{number}/tags/{key}", summary="Remove a tag", status_code=204)
    def delete_tag(name: Text, number: Number, key: Text, call: Caller) -> None:
        call.needs(Role.ENGINEER, "untag version", f"{name}/{number} {key}")
        ledger.tag(f"{name}/{number}", key, None)

    @api.post("/models/{name}/versions/{number}/metrics", summary="Add metrics", response_model=VersionView)
    def log_metrics(name: Text, number: Number, given: MetricsView, call: Caller) -> ModelVersion:
        call.needs(Role.ENGINEER, "log metrics", f"{name}/{number}")
        return ledger.log_metrics(f"{name}/{number}", [Metric(**dict(metric)) for metric in given.metrics])

    @api.delete(
        "/models/{name}/versions/{number}", summary="Delete a version nothing refers to", status_code=204
    )
    def delete_version(name: Text, number: Number, call: Caller) -> None:
        call.needs(Role.ADMIN, "delete version", f"{name}/{number}")
        ledger.delete(f"{name}/{number}")


def _alias_routes(api: APIRouter, backend: Backend) -> None:
    ledger = backend.registry

    @api.get(
        "/models/{name}/aliases/{alias}", summary="The version behind an alias", response_model=VersionView
    )
    def behind(name: Text, alias: Text) -> ModelVersion:
        return ledger.get(f"{name}@{alias}")

    @api.get(
        "/models/{name}/aliases/{alias}/history", summary="Every move of an alias, oldest first",
        response_model=tuple[MoveView, ...],
    )  # fmt: skip
    def history(name: Text, alias: Text) -> tuple[AliasMove, ...]:
        return ledger.alias_history(name, alias)


def _alias_edit_routes(api: APIRouter, backend: Backend) -> None:
    ledger = backend.registry

    @api.put(
        "/models/{name}/aliases/{alias}",
        summary="Promote: point an alias at a version",
        response_model=VersionView,
    )
    def promote(name: Text, alias: Text, wanted: PromotionView, call: Caller) -> ModelVersion:
        """With `expect`, compare-and-set: 409 says in `current` where the alias is. A protected alias wants evidence."""
        call.needs(Role.ENGINEER, "promote", f"{name}@{alias} to {wanted.version}")
        return ledger.promote(
            f"{name}/{wanted.version}",
            alias,
            expect=wanted.expect if "expect" in wanted.model_fields_set else ANYWHERE,
            by=call.caller.name,
            reason=wanted.reason,
            evidence=wanted.evidence,
        )

    @api.delete(
        "/models/{name}/aliases/{alias}", summary="Take an alias away; its history stays", status_code=204
    )
    def remove_alias(name: Text, alias: Text, reason: Because, call: Caller) -> None:
        call.needs(Role.ENGINEER, "remove alias", f"{name}@{alias}")
        ledger.remove_alias(name, alias, by=call.caller.name, reason=reason)

    @api.post(
        "/models/{name}/aliases/{alias}/rollback",
        summary="Take back an alias's last move",
        response_model=VersionView,
    )
    def rollback(name: Text, alias: Text, why: ReasonView, call: Caller) -> ModelVersion:
        call.needs(Role.ENGINEER, "roll back", f"{name}@{alias}")
        return ledger.rollback(name, alias, by=call.caller.name, reason=why.reason)


def _chain_routes(api: APIRouter, backend: Backend) -> None:
    ledger = backend.registry

    @api.get("/live", summary="Which version is live where", response_model=tuple[LiveView, ...])
    def live() -> tuple[Live, ...]:
        return ledger.live()

    @api.get(
        "/explain",
        summary="Where a version, arm or read-out comes from",
        response_model=dict[str, Any],
        responses=GRAPHS,
    )
    def explain(target: Text, shown: Shown = "json") -> Any:
        """`ranker@champion`, `experiment/arm`, `experiment NAME` or `readout 7`."""
        return lineage_answer(ledger.explain(target), shown)

    @api.get(
        "/impact",
        summary="What a feature, service, training set or version reaches",
        response_model=dict[str, Any],
        responses=GRAPHS,
    )
    def impact(target: Text, shown: Shown = "json") -> Any:
        """`feature NAME`, `service DIGEST`, `training_set DIGEST` or `ranker/3`."""
        return lineage_answer(ledger.impact(target), shown)

    @api.get(
        "/experiments", summary="Every run of every experiment", response_model=tuple[ExperimentView, ...]
    )
    def experiments(state: RunState | None = None) -> tuple[Experiment, ...]:
        """`state` leaves those that stand there now."""
        return ledger.experiments(state=state)

    @api.get(
        "/experiments/{name}/readouts",
        summary="What came of an experiment",
        response_model=tuple[ReadoutView, ...],
    )
    def readouts(name: Text) -> tuple[Readout, ...]:
        return ledger.readouts(name)


def _people_routes(api: APIRouter, backend: Backend) -> None:
    @api.get("/whoami", summary="Whose token this is", response_model=CallerView)
    async def whoami(call: Caller) -> Any:
        return CallerView(name=call.caller.name, role=call.caller.role.value)

    @api.get("/audit", summary="Who did what, oldest first", response_model=tuple[EntryView, ...])
    def audit(
        call: Caller, after: Seen = 0, limit: Limit = 100, name: Text | None = None
    ) -> tuple[Entry, ...]:
        call.needs(Role.ADMIN, "read audit log")
        return backend.audit.page(after, limit, name)


def lineage_answer(lineage: Lineage, shown: Format) -> dict[str, Any] | Response:
    """A lineage in one of its formats; a graph may fold very many boxes into one, JSON has them all."""
    if shown == "mermaid":
        return Response(lineage.to_mermaid(), media_type=MERMAID, headers=NOT_RUN)
    if shown == "svg":
        return Response(to_svg(lineage), media_type=SVG, headers=NOT_RUN)
    return lineage.to_dict()


def file_answer(version: ModelVersion, path: str, backend: Backend) -> Response:
    """A file of a version, checked; to be saved, not shown: an HTML report must not run here with our origin."""
    sha256 = file_digest(version, path)
    kind = next(file.media_type for file in version.files if file.path == path)
    headers = {"ETag": f'"{sha256}"', **NOT_RUN, "Content-Disposition": "attachment"}
    return Response(backend.store.read(sha256), media_type=kind, headers=headers)
