"""The image of a Bento: what BentoML's own generator writes for `bentoml containerize`, and whether that is right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bentoml._internal.bento.bento import Bento
from bentoml._internal.container import construct_containerfile

SETTING = re.compile(r"^(?:ENV|ARG) (?P<name>\w+)=(?P<value>.*)$", re.MULTILINE)
PYTHON = "3.11"
USER = "bentoml"
UID = 1034
"""BentoML's user in its images, by name and number: Kubernetes checks numbers."""


@dataclass(frozen=True)
class Image:
    """What a Dockerfile comes to."""

    base: str
    user: str
    entry_point: str
    settings: Mapping[str, str]
    requirements: tuple[str, ...]

    @classmethod
    def of(cls, dockerfile: str, requirements: str) -> Image:
        """Read it off the Dockerfile and the requirements it installs."""
        settings = {
            found["name"]: found["value"]
            for found in SETTING.finditer(dockerfile)
            if found["value"] != f"${found['name']}"  # an ENV that passes on the ARG before it
        }
        return cls(
            _last(r"^FROM (\S+)", dockerfile),
            _last(r"^USER (\S+)", dockerfile),
            _last(r"^ENTRYPOINT \[ \"(\S+)\" \]", dockerfile),
            settings,
            tuple(line.strip() for line in requirements.splitlines() if line.strip()),
        )


def dockerfile(bento: Path) -> str:
    """The Dockerfile that `bentoml containerize` builds a Bento's folder with. BuildKit is taken for granted, as it does.

    Raises:
        FileNotFoundError: there is no Bento in the folder.
    """
    if not (bento / "bento.yaml").exists():
        raise FileNotFoundError(f"{bento} holds no Bento. `matinee bento list` names those that were built.")
    with construct_containerfile(Bento.from_path(str(bento)), enable_buildkit=True, add_header=True) as (
        folder,
        path,
    ):
        return Path(folder, path).read_text("utf-8")


def image(bento: Path) -> Image:
    """What the image of a Bento's folder would be."""
    requirements = (bento / "env" / "python" / "requirements.txt").read_text("utf-8")
    return Image.of(dockerfile(bento), requirements)


def problems(made: Image) -> tuple[str, ...]:
    """What is wrong with an image, a sentence each."""
    torch = [line for line in made.requirements if re.match(r"torch\W", line)]
    checks = {
        f"its base is {made.base!r}, not Python {PYTHON}'s slim image": made.base == f"python:{PYTHON}-slim",
        f"it runs as {made.user!r}, not as {USER!r}": made.user == USER,
        f"its entry point is {made.entry_point!r}": made.entry_point.endswith("/env/docker/entrypoint.sh"),
        f"torch is not pinned: {torch}": len(torch) == 1 and "==" in torch[0],
        "torch would come with CUDA: UV_TORCH_BACKEND is not cpu": made.settings.get("UV_TORCH_BACKEND")
        == "cpu",
        "a library may use all processors: OMP_NUM_THREADS is not 1": made.settings.get("OMP_NUM_THREADS")
        == "1",
        "MATINEE_HOME is fixed: it is where a workspace is mounted": "MATINEE_HOME" not in made.settings,
        "a secret is in it": not any("TOKEN" in name or "PASSWORD" in name for name in made.settings),
    }
    return tuple(problem for problem, right in checks.items() if not right)


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text, re.MULTILINE)
    return str(found[-1]) if found else ""
