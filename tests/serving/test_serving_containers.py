"""The image a Bento would become: BentoML's own Dockerfile, read and judged. No engine runs here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serving.bento import build
from serving.containers import UID, USER, Image, dockerfile, image, problems
from serving.edge import Edge
from serving.kubernetes import PORT, SCRATCH, WORKSPACE, Deployed, manifests
from serving.running import Serving, free_port, stop, wait_until_ready
from serving.service import Settings

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:_bentoml_sdk.*", "ignore:GitWildMatchPattern:DeprecationWarning"
)


@pytest.fixture(scope="module")
def built(first_world):
    return build(
        "homepage",
        first_world.versions,
        first_world.defaults(),
        first_world.home,
        first_world.home / "images",
    )


def test_the_image_is_the_slim_one_of_our_python_with_torch_for_processors_only(built):
    made = image(built.path)
    assert problems(made) == ()
    assert made.base == "python:3.11-slim"
    assert "torch==2.13.*" in made.requirements
    assert made.settings["UV_TORCH_BACKEND"] == "cpu"
    assert not [line for line in made.requirements if re.match(r"nvidia|cuda|triton", line)]


def test_it_ends_as_another_user_than_root_whose_number_kubernetes_may_check(built):
    text = dockerfile(built.path)
    last_user = [line for line in text.splitlines() if line.startswith("USER ")][-1]
    assert last_user == f"USER {USER}"
    assert f"ARG BENTO_USER_UID={UID}\n" in text
    assert text.index("\nUSER ") > text.index("RUN chmod")


def test_what_it_copies_is_in_the_bento_and_its_entry_point_can_be_run(built):
    text = dockerfile(built.path)
    for folder in re.findall(r"^COPY --chown=\S+ (\./\S+) ", text, re.MULTILINE):
        assert (built.path / folder).exists(), folder
    entry = built.path / "env" / "docker" / "entrypoint.sh"
    assert image(built.path).entry_point.endswith("env/docker/entrypoint.sh")
    assert entry.read_text().startswith("#!/usr/bin/env bash")
    assert 'exec bentoml "$@" "$BENTO_PATH"' in entry.read_text()  # what `args: [serve, …]` comes to


def test_nothing_of_a_deployment_is_fixed_in_it(built):
    settings = image(built.path).settings
    fixed = {f"MATINEE_{name.upper()}" for kind in (Settings, Edge) for name in kind.model_fields} & set(
        settings
    )
    assert fixed == set()


def test_the_dockerfile_in_the_bento_is_the_one_that_is_checked(built):
    def without_buildkit(text):
        return [
            re.sub(r"RUN\s+(--mount=\S+\s+)*", "RUN ", line)
            for line in text.splitlines()
            if line and not line.startswith("#")
        ]

    in_bento = (built.path / "env" / "docker" / "Dockerfile").read_text()
    assert without_buildkit(dockerfile(built.path)) == without_buildkit(in_bento)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("FROM python:3.11-slim", "FROM python:3.12-slim"), "its base is 'python:3.12-slim'"),
        ((f"USER {USER}", "USER root"), "it runs as 'root'"),
        (("ARG UV_TORCH_BACKEND=cpu", "ARG UV_TORCH_BACKEND=cu130"), "torch would come with CUDA"),
        (("ARG OMP_NUM_THREADS=1", "ARG OMP_NUM_THREADS=8"), "OMP_NUM_THREADS is not 1"),
        (("ENV LANG=C.UTF-8", "ENV MATINEE_HOME=/home"), "MATINEE_HOME is fixed"),
        (("ENV LANG=C.UTF-8", "ENV MATINEE_API_TOKEN=abc"), "a secret is in it"),
    ],
)
def test_a_wrong_image_is_told(built, changed, says):
    requirements = (built.path / "env" / "python" / "requirements.txt").read_text()
    (found,) = problems(Image.of(dockerfile(built.path).replace(*changed), requirements))
    assert says in found


def test_torch_without_a_version_is_told(built):
    requirements = "torch>=2\nnumpy"
    (found,) = problems(Image.of(dockerfile(built.path), requirements))
    assert "torch is not pinned" in found


def test_a_folder_without_a_bento_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no Bento"):
        dockerfile(tmp_path)


def test_rendering_leaves_the_bento_as_it_was(built):
    before = {path: path.stat().st_mtime_ns for path in built.path.rglob("*")}
    dockerfile(built.path)
    assert {path: path.stat().st_mtime_ns for path in built.path.rglob("*")} == before
    assert os.access(built.path / "bento.yaml", os.R_OK)


@pytest.mark.slow
def test_the_entry_point_serves_with_the_arguments_and_settings_that_kubernetes_gives_it(
    built, first_world, tmp_path
):
    """The container's own script, run here; the image's virtual environment is the one we are in."""
    deployed = Deployed.of_tag(built.tag, token_secret=None)
    container = manifests(deployed)[1]["spec"]["template"]["spec"]["containers"][0]
    home, port = tmp_path / "home", free_port()
    shutil.copytree(first_world.home, home, ignore=shutil.ignore_patterns("images"))
    settings = {
        one["name"]: one["value"].replace(WORKSPACE, str(home)).replace(SCRATCH, str(tmp_path))
        for one in container["env"]
    }
    settings |= {
        "BENTO_PATH": str(built.path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONSAFEPATH": "1",
    }
    arguments = [
        word.replace(str(PORT), str(port)).replace("0.0.0.0", "127.0.0.1") for word in container["args"]
    ]
    before = files(built.path)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", str(built.path / "env" / "docker" / "entrypoint.sh"), *arguments],
            env=settings, cwd=built.path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        how = Serving(built.tag, home, tmp_path, port=port)
        wait_until_ready(how, process, tmp_path / "log", 60)
        page = httpx.post(f"{how.base_url}/page", json={"user_id": 2}).json()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert httpx.get(how.base_url + container[probe]["httpGet"]["path"]).status_code == 200
    finally:
        stop(process)
    assert page["source"] == "ranked"
    assert files(built.path) == before  # its file system may be read-only
    assert list((home / "exposures").iterdir())


def files(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
