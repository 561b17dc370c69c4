"""What leaves the ledger, over our own API: its events, and the webhooks they are delivered to."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query

from registry.http.backend import Backend
from registry.http.tokens import Role
from registry.http.v1 import PROBLEMS, Caller, Limit, Seen
from registry.http.views import CreatedWebhookView, EventView, NewWebhookView, PauseView, Text, WebhookView
from registry.outbox import Kind
from registry.webhooks import Webhook, check_url

Kinds = Annotated[list[Kind], Query(max_length=100, description="Of these kinds only; may be given again.")]


def router(backend: Backend) -> APIRouter:
    """Every endpoint about events, over one ledger."""
    api = APIRouter(prefix="/v1", tags=["v1"], responses=PROBLEMS)
    _event_routes(api, backend)
    _webhook_routes(api, backend)
    _webhook_edit_routes(api, backend)
    return api


def _event_routes(api: APIRouter, backend: Backend) -> None:
    @api.get("/events", summary="What happened, oldest first", response_model=tuple[EventView, ...])
    def events(after: Seen = 0, limit: Limit = 100, kind: Kinds = []) -> Any:  # noqa: B006
        """Read on with the last id seen as `after`: nothing is missed, and nothing comes twice."""
        return [event.to_dict() for event in backend.registry.events(after, limit, kind)]


def _webhook_routes(api: APIRouter, backend: Backend) -> None:
    @api.get("/webhooks", summary="Webhooks by name", response_model=tuple[WebhookView, ...])
    def webhooks(call: Caller) -> tuple[Webhook, ...]:
        call.needs(Role.ADMIN, "list webhooks")
        return backend.webhooks.all()

    @api.post("/webhooks", summary="Make a webhook", response_model=CreatedWebhookView, status_code=201)
    def create(wanted: NewWebhookView, call: Caller) -> Any:
        """The answer has the secret, this once."""
        call.needs(Role.ADMIN, "create webhook", wanted.name or "")
        call.target = wanted.name or check_url(wanted.url)
        webhook, secret = backend.webhooks.create(
            wanted.url, wanted.kinds, secrets.token_bytes, name=wanted.name, after=wanted.after
        )
        return {"webhook": webhook, "secret": secret}


def _webhook_edit_routes(api: APIRouter, backend: Backend) -> None:
    @api.patch("/webhooks/{name}", summary="Pause or resume a webhook", response_model=WebhookView)
    def pause(name: Text, wanted: PauseView, call: Caller) -> Webhook:
        """Resumed, it goes on after the last event acknowledged, at once."""
        call.needs(Role.ADMIN, "pause webhook" if wanted.paused else "resume webhook", name)
        return backend.webhooks.pause(name) if wanted.paused else backend.webhooks.resume(name)

    @api.delete("/webhooks/{name}", summary="Delete a webhook and its secret", status_code=204)
    def delete(name: Text, call: Caller) -> None:
        call.needs(Role.ADMIN, "delete webhook", name)
        backend.webhooks.delete(name)
