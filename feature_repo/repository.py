"""The genuine Feast repository: which workspace it is for, what is applied to it, and that all of it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig

from events.sources import SOURCES, Source
from feature_repo.declarations import Declarations
from feature_repo.feast_views import FeastObjects, feast_objects

HOME = "MATINEE_HOME"


class NoWorkspace(LookupError):
    """No workspace was named, or what was named is none."""

    def __init__(self, named: str | None) -> None:
        found = f"{named!r} has no workspace.json" if named else f"{HOME} is not set"
        super().__init__(
            f"{found}: set {HOME} to the absolute path of a workspace, such as .matinee/world, which `matinee demo` makes."
        )


class NotApplied(RuntimeError):
    """`apply` ran, and yet the registry lacks something."""

    def __init__(self, missing: Mapping[str, set[str]]) -> None:
        found = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in missing.items() if names)
        super().__init__(f"the Feast registry lacks what was applied: {found}.")


@dataclass(frozen=True)
class Applied:
    """How much the registry holds."""

    entities: int
    views: int
    on_demand_views: int
    services: int
    features: int


def workspace_of(environment: Mapping[str, str]) -> Path:
    """The folder that MATINEE_HOME names.

    Raises:
        NoWorkspace: it is not set, or not the folder of a workspace.
    """
    named = environment.get(HOME)
    if not named or not (Path(named) / "workspace.json").exists():
        raise NoWorkspace(named)
    return Path(named).resolve()


def source_of(home: Path) -> Source:
    """The source of events that the workspace is for."""
    return SOURCES[json.loads((home / "workspace.json").read_text())["source"]]


def feature_store(home: Path) -> FeatureStore:
    """Plain Feast on the workspace, with the settings of `feature_store.yaml`; the environment is not read."""
    text = Path(__file__).with_name("feature_store.yaml").read_text()
    settings = yaml.safe_load(text.replace(f"${{{HOME}}}", str(home.resolve())))
    return FeatureStore(config=RepoConfig(**settings, repo_path=Path(__file__).parent))


def apply(home: Path, declarations: Declarations) -> Applied:
    """Bring the workspace's Feast registry and online record up to `declarations`, and check that it took.

    Raises:
        NotApplied: the registry lacks something afterwards.
    """
    wanted = feast_objects(declarations, home.resolve() / "offline")
    (home / "feast").mkdir(parents=True, exist_ok=True)
    store = feature_store(home)
    store.apply(wanted.all(), objects_to_delete=_left_over(store, wanted), partial=False)
    store.refresh_registry()
    return _checked(store, wanted)


def _names(store: FeatureStore) -> dict[str, set[str]]:
    return {
        "entities": {entity.name for entity in store.list_entities()},
        "views": {view.name for view in store.list_batch_feature_views()},
        "on-demand views": {view.name for view in store.list_on_demand_feature_views()},
        "services": {service.name for service in store.list_feature_services()},
    }


def _wanted_names(wanted: FeastObjects) -> dict[str, set[str]]:
    return {
        "entities": {entity.name for entity in wanted.entities},
        "views": {view.name for view in wanted.views},
        "on-demand views": {view.name for view in wanted.on_demand},
        "services": {service.name for service in wanted.services},
    }


def _left_over(store: FeatureStore, wanted: FeastObjects) -> list[object]:
    """What the registry holds of earlier declarations, services first since they hold on to views."""
    names = _wanted_names(wanted)
    listed = (
        ("services", store.list_feature_services()),
        ("on-demand views", store.list_on_demand_feature_views()),
        ("views", store.list_batch_feature_views()),
    )
    return [item for kind, items in listed for item in items if item.name not in names[kind]]


def _checked(store: FeatureStore, wanted: FeastObjects) -> Applied:
    held, expected = _names(store), _wanted_names(wanted)
    missing = {kind: expected[kind] - held[kind] for kind in expected}
    views = {
        view.name: {f.name for f in view.features}
        for view in (*store.list_batch_feature_views(), *store.list_on_demand_feature_views())
    }
    missing["features"] = {
        f"{view.name}:{field.name}"
        for view in (*wanted.views, *wanted.on_demand)
        for field in view.features
        if field.name not in views.get(view.name, ())
    }
    if any(missing.values()):
        raise NotApplied(missing)
    return Applied(
        entities=len(expected["entities"]), views=len(expected["views"]), on_demand_views=len(expected["on-demand views"]),
        services=len(expected["services"]), features=sum(len(names) for names in views.values()),
    )  # fmt: skip
