"""The ledger over HTTP: our own API under `/v1`, and MLflow's registry protocol for its unmodified client."""

from registry.http.app import create_app
from registry.http.backend import Backend, open_backend
from registry.http.limits import Limits
from registry.http.tokens import Role

__all__ = ["Backend", "Limits", "Role", "create_app", "open_backend"]
