"""What `feast apply` reads: the Feast objects of the workspace that the environment variable MATINEE_HOME names.

Feast imports this file by its bare name and takes every Feast object that `dir()` shows of it; all other modules
are kept from it by `.feastignore`. Importing it does nothing yet: the objects are made when they are looked at.
"""

from __future__ import annotations

import os
from functools import cache

from feature_repo.families import declare
from feature_repo.feast_views import feast_objects
from feature_repo.repository import source_of, workspace_of


@cache
def _objects() -> dict[str, object]:
    home = workspace_of(os.environ)
    return feast_objects(declare(source_of(home)), home / "offline").named()


def __dir__() -> list[str]:
    return sorted(_objects())


def __getattr__(name: str) -> object:
    if name.startswith("__") or name not in _objects():
        raise AttributeError(f"no Feast object {name!r} is defined here.")
    return _objects()[name]
