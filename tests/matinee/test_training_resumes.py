"""A training that was killed, typed again."""

import signal
import subprocess
import sys
import time

import pytest

from matinee.context import Day
from matinee.training import checkpoint, recipes
from models.settings import RetrievalConfig

TRAIN = [sys.executable, "-m", "matinee", "train", "retriever"]


def killed_at_its_first_checkpoint(folder, environment):
    """Start a training and kill it with SIGKILL when it has written down an epoch."""
    process = subprocess.Popen(TRAIN, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(folder.glob("retriever/*.safetensors")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return list(folder.glob("retriever/*.safetensors"))


@pytest.mark.slow
def test_a_killed_training_goes_on_says_so_registers_what_it_would_have_and_tidies_up(
    command, workspaces, environment
):
    folder = workspaces / "world" / "checkpoints"
    here = environment | {"MATINEE_WORKSPACES": str(workspaces), "MATINEE_SEED": "11", "OMP_NUM_THREADS": "1"}
    (stale := folder / "retriever").mkdir(parents=True)
    (stale / "of-another-day").write_bytes(b"")
    assert killed_at_its_first_checkpoint(folder, here)
    again = command("matinee train retriever", MATINEE_SEED="11", OMP_NUM_THREADS="1").stdout
    assert "train retriever: goes on from a checkpoint, after epoch" in again
    assert "retriever/2" in again
    assert not (folder / "retriever").exists()
    same = command("matinee models reproduce retriever/2 --json", OMP_NUM_THREADS="1").stdout
    assert '"equal": true' in same


@pytest.mark.slow
def test_two_processes_register_one_version_that_says_so(command):
    found = command(
        "torchrun --standalone --nproc-per-node 2 -m matinee train retriever 2>&1; matinee models show retriever --json",
        MATINEE_SEED="12", OMP_NUM_THREADS="1",
    ).stdout  # fmt: skip
    assert found.count("train retriever") == 1
    assert '"processes": "2"' in found
    assert '"device": "cpu"' in found


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_before_anything_is_read(command):
    failed = command("matinee train retriever", fails=True, MATINEE_DEVICE="cuda", MATINEE_SEED="13")
    assert "error: device 'cuda' is asked for" in failed.stderr


def test_every_training_that_would_come_out_otherwise_has_a_checkpoint_of_its_own(copied_day: Day):
    bench = copied_day.bench
    found = {checkpoint(bench, recipes.retriever(RetrievalConfig(seed=seed))) for seed in (1, 2)}
    assert len(found) == 2
    assert {path.parent for path in found} == {copied_day.workspace.checkpoints / "retriever"}
    assert checkpoint(bench, recipes.retriever(RetrievalConfig(seed=1))) in found
