"""A small workspace made of real parts: a published snapshot, models of random weights, live experiments."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from experiments.config import Experiment
from experiments.live import LiveArm, LiveExperiment, LiveExperiments
from feature_repo.arithmetic import Ref, to_data
from feature_repo.reader import OnlineReader
from feature_repo.snapshot import Contents, Described, Pairs, Recents, Service, Vectors, publish
from models.artwork import ArtworkPolicy
from models.artwork_data import ArtworkImages, ArtworkLog
from models.artwork_train import train_artwork
from models.calibration import Calibration
from models.choice import Fusion
from models.coplays import no_coplays
from models.data import Int64
from models.inputs import fit_standardiser
from models.network import RankerNetwork
from models.ranker import Ranker
from models.retrieval import Retriever, Towers
from models.settings import RankerConfig, RetrievalConfig
from models.signature import Signature
from models.threads import use_threads
from models.towers import TitleTower, UserTower
from serving.manifest import Defaults, Manifest
from serving.packing import pack_versions

with warnings.catch_warnings():
    # bentoml 1.4.39 uses old names of pathspec and pydantic while it, and a service, is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    import serving.bento
    import serving.service  # noqa: F401

AS_OF = datetime(2026, 3, 2, tzinfo=UTC)
FIRST_TITLE, FIRST_USER = 1000, 1
NEW_USER = 10**12
HEADS = ("play", "completion", "retention")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    use_threads(1)


@dataclass(frozen=True)
class Shape:
    """How large the world is; `pairs` are user × title features."""

    users: int = 30
    titles: int = 60
    artworks: int = 5
    profile: int = 8
    activity: int = 20
    pairs: int = 12


@dataclass
class World:
    """A workspace folder and what was put into it."""

    home: Path
    shape: Shape
    versions: dict[str, Path] = field(default_factory=dict)

    @property
    def reader(self) -> OnlineReader:
        return OnlineReader.open(self.home / "online")

    @property
    def title_ids(self) -> Int64:
        return np.arange(self.shape.titles, dtype=np.int64) + FIRST_TITLE

    def defaults(self, **changes: object) -> Defaults:
        popular = tuple(self.title_ids[::-1].tolist())
        fixed = {"retriever": "retriever/1", "ranker": "ranker/1", "artwork": "artwork/1", "popular": popular}
        return Defaults.model_validate(fixed | {"budget_ms": 5_000, "n_candidates": 40} | changes)

    def publish(
        self,
        *,
        as_of: datetime = AS_OF,
        seed: int = 0,
        digest: str = "d",
        late: Sequence[int] = (),
        bare: Sequence[int] = (),
    ) -> str:
        """Publish a snapshot; `late` titles become available only after `as_of`, of `bare` ones there are no features."""
        made = contents(self.shape, as_of, seed, digest, late)
        made = replace(made, vectors=tuple(_without(part, bare) for part in made.vectors))
        return publish(self.home / "online", made).id

    def save_models(self, number: int = 1, seed: int = 0) -> None:
        """Models of random weights that fit the snapshot which is current."""
        for name, model in {
            "retriever": retriever(self.reader, self.title_ids, seed),
            "ranker": ranker(self.reader, self.title_ids, seed),
            "artwork": artwork_policy(self.reader, seed),
        }.items():
            folder = self.home / "models" / name / str(number)
            model.save(folder)
            self.versions[f"{name}/{number}"] = folder

    def manifest(self, service: str = "homepage", **changes: object) -> Manifest:
        """What a Bento of all versions would say, its folders being where they are."""
        with tempfile.TemporaryDirectory() as context:
            packed = pack_versions(service, self.versions, self.defaults(**changes), Path(context))
        in_place = tuple(v.model_copy(update={"folder": str(self.versions[v.ref])}) for v in packed)
        return Manifest(service=service, versions=in_place, defaults=self.defaults(**changes))

    def go_live(self, *arms: dict[str, object], name: str = "trial") -> None:
        """One experiment over everybody, equal shares, in which each of `arms` sets some parameters."""
        experiments = (experiment(name, arms),) if arms else ()
        LiveExperiments(experiments=experiments).write(self.home / "live" / "experiments.json")


def contents(shape: Shape, as_of: datetime, seed: int, digest: str, late: Sequence[int]) -> Contents:
    rng = np.random.default_rng(seed)
    users = np.arange(shape.users, dtype=np.int64) + FIRST_USER
    titles = np.arange(shape.titles, dtype=np.int64) + FIRST_TITLE
    profile, activity = shape.profile, shape.activity
    expressions = tuple(
        to_data(
            Ref("user_activity", f"user_activity_{i % activity}")
            * Ref("title_activity", f"title_activity_{i % activity}")
        )
        for i in range(shape.pairs)
    )
    pairs = Pairs(described("user_title", "user_title", shape.pairs, digest), expressions)
    watched = np.concatenate([rng.choice(titles, size=5, replace=False) for _ in users])
    return Contents(
        source="world",
        as_of=as_of,
        vectors=(
            vectors("user_profile", "user", users, profile, rng, digest),
            vectors("user_activity", "user", users, activity, rng, digest),
            vectors("title_profile", "title", titles, profile, rng, digest),
            vectors("title_activity", "title", titles, activity, rng, digest),
        ),
        lists=(),
        pairs=(pairs,),
        services=(
            Service("retrieval_user", ("user_profile",), ""),
            Service("retrieval_title", ("title_profile",), ""),
            Service(
                "ranking",
                ("user_profile", "user_activity", "title_profile", "title_activity", "user_title"),
                "",
            ),
            Service("artwork_context", ("user_profile",), ""),
        ),
        catalogue=catalogue(titles, shape.artworks, as_of, late),
        recents=(recent_plays(users, watched, as_of, digest),),
    )


def _without(part: Vectors, ids: Sequence[int]) -> Vectors:
    kept = ~np.isin(part.ids, ids)
    return replace(part, ids=part.ids[kept], values=part.values[kept], known=part.known[kept])


def recent_plays(users: Int64, watched: Int64, as_of: datetime, digest: str) -> Recents:
    """Five plays of each user, the last of them a minute before `as_of`."""
    of = replace(
        described("recent_plays", "user", 2, digest),
        features=("play_id", "title_id"),
        ttl_days=36_500,
        keep=50,
    )
    moments = int(as_of.timestamp()) * 1_000_000 - np.tile(np.arange(5, 0, -1), len(users)) * 60_000_000
    return Recents(of, np.repeat(users, 5), moments, moments, (np.arange(len(watched)), watched))


def described(name: str, entity: str, width: int, digest: str) -> Described:
    features = tuple(f"{name}_{i}" for i in range(width))
    return Described(name, entity, features, tuple(f"{digest}{i}" for i in range(width)), 7)


def vectors(name: str, entity: str, ids: Int64, width: int, rng: np.random.Generator, digest: str) -> Vectors:
    values = rng.normal(size=(len(ids), width)).astype(np.float32)
    return Vectors(described(name, entity, width, digest), ids, values, rng.random(values.shape) > 0.05)


def catalogue(titles: Int64, n_artworks: int, as_of: datetime, late: Sequence[int]) -> pa.Table:
    return pa.table({
        "title_id": titles,
        "name": [f"Title {title}" for title in titles],
        "release_year": pa.array([None if title % 7 == 0 else 1900 + int(title) % 100 for title in titles], pa.int32()),
        "genres": [["Comedy", "Drama"][: int(title) % 3] for title in titles],
        "available_from": pa.array(
            [as_of.replace(year=2027 if title in late else 2020) for title in titles], pa.timestamp("us", "UTC")
        ),
        # every tenth title has no image
        "artworks": [[] if title % 10 == 9 else [int(title) * 100 + i for i in range(n_artworks)] for title in titles],
    })  # fmt: skip


def signature(reader: OnlineReader, service: str) -> Signature:
    digests = reader.digests(service)
    return Signature(tuple(digests), tuple(digests.values()))


def retriever(reader: OnlineReader, title_ids: Int64, seed: int) -> Retriever:
    torch.manual_seed(seed)
    config = RetrievalConfig(dimension=16, hidden=32, history=5, coplays=4)
    users = reader.vectors("retrieval_user", np.arange(20, dtype=np.int64) + FIRST_USER)
    titles = reader.vectors("retrieval_title", title_ids)
    user_inputs, title_inputs = fit_standardiser(users), fit_standardiser(titles)
    towers = Towers(
        UserTower(user_inputs.width, config).eval(),
        TitleTower(title_inputs.width, len(title_ids), config).eval(),
        user_inputs,
        title_inputs,
        title_ids,
        no_coplays(config.coplays),
        config,
    )
    user, title = signature(reader, "retrieval_user"), signature(reader, "retrieval_title")
    return Retriever(towers, towers.catalogue(title_ids, titles), user, title)


def ranker(reader: OnlineReader, title_ids: Int64, seed: int) -> Ranker:
    torch.manual_seed(seed)
    config = RankerConfig()
    inputs = fit_standardiser(reader.matrix("ranking", FIRST_USER, title_ids))
    network = RankerNetwork(inputs.width, (*HEADS, "choice"), config).eval()
    calibration = dict.fromkeys(HEADS, Calibration())
    about = {
        "user_profile": "user",
        "user_activity": "user",
        "title_profile": "title",
        "title_activity": "title",
    }
    return Ranker(
        network,
        inputs,
        calibration,
        float("nan"),
        config,
        signature(reader, "ranking"),
        Fusion(0.7, 0.5),
        about,
    )


def artwork_policy(reader: OnlineReader, seed: int) -> ArtworkPolicy:
    """Trained on a log of random images and random plays."""
    rng = np.random.default_rng(seed)
    arms = [
        (t, a) for t in reader.catalogue.title_ids.tolist() for a in reader.catalogue.artworks(t).tolist()
    ]
    title, image = np.array(arms, dtype=np.int64).T
    images = ArtworkImages.of(image, title, rng.random((len(image), 3)).astype(np.float32))
    rows, users = rng.integers(0, len(image), 1000), rng.integers(0, 20, 1000) + FIRST_USER
    context = reader.vectors("artwork_context", users)
    play = (rng.random(1000) < 0.2).astype(np.float32)
    log = ArtworkLog(np.arange(1000), users, title[rows], image[rows], context, play, np.full(1000, 0.2))
    looks = Signature(("brightness", "warmth", "darkness"), ("b", "w", "d"))
    return train_artwork(images, log, signature(reader, "artwork_context"), looks)


def experiment(name: str, arms: Sequence[dict[str, object]]) -> LiveExperiment:
    names = [f"arm{place}" for place in range(len(arms))]
    plays = {"name": "plays", "description": "Plays.", "value": "plays", "direction": "increase"}
    declaration = Experiment.model_validate({
        "name": name, "layer": "ranking", "unit": "user_id", "owner": "tests", "hypothesis": "None.",
        "start": AS_OF.replace(year=2020), "end": AS_OF.replace(year=2100), "control": names[0],
        "arms": {n: {"share": 1 / len(arms), "parameters": arm} for n, arm in zip(names, arms, strict=True)},
        "metrics": {"primary": plays, "guardrails": [plays | {"name": "guarded", "margin": 0.1}]},
    })  # fmt: skip
    edges = [10_000 * place // len(arms) for place in range(len(arms) + 1)]
    live = [
        LiveArm(name=n, low=low, high=high, parameters=arm)
        for n, low, high, arm in zip(names, edges, edges[1:], arms, strict=False)
    ]
    return LiveExperiment(
        declaration=declaration, slot=(0, 10_000), rollout=10_000, arms=tuple(live), started_at=AS_OF
    )


@pytest.fixture(scope="session")
def first_world(tmp_path_factory):
    """One snapshot and version 1 of every model; tests change copies of it."""
    made = World(tmp_path_factory.mktemp("first") / "home", Shape())
    made.publish()
    made.save_models()
    return made


@pytest.fixture
def world(first_world, tmp_path):
    """A small workspace with one snapshot and version 1 of every model."""
    home = tmp_path / "home"
    shutil.copytree(first_world.home, home)
    moved = {ref: home / folder.relative_to(first_world.home) for ref, folder in first_world.versions.items()}
    return World(home, first_world.shape, moved)
