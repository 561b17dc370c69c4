"""A training killed with SIGKILL goes on where it stood, and one shared by two processes is the same training."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from models.artifact import digest
from models.train_ranker import train_ranker
from models.train_retrieval import train_retrieval

PROGRAM = Path(__file__).with_name("training_program.py")
ROOT = Path(__file__).parents[2]
TRAINED = {"ranker": train_ranker, "retriever": train_retrieval}


@pytest.fixture(scope="module")
def arguments(rows, periods, sign, ranker_config, retrieval_config):
    """What each training is given, small."""
    return {
        "ranker": (rows(3000, seed=0), rows(1000, seed=1, period=1), ranker_config, sign(12)),
        "retriever": (periods[:2], periods[3], retrieval_config, sign(3, "u"), sign(6, "t")),
    }


def environment(**more):
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def command(what, data, checkpoint, dies_after, out):
    return [str(PROGRAM), what, str(data), str(checkpoint), str(dies_after), str(out)]


def run(*given):
    return subprocess.run(
        [sys.executable, *command(*given)], env=environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.endurance
@pytest.mark.parametrize("what", ["ranker", "retriever"])
def test_a_training_killed_twice_between_epochs_ends_with_the_bytes_of_one_that_was_not(
    what, arguments, tmp_path
):
    data, checkpoint, out = tmp_path / "data", tmp_path / "kept" / "c.safetensors", tmp_path / "out"
    data.write_bytes(pickle.dumps(arguments[what]))
    for epoch in (1, 3):
        killed = run(what, data, checkpoint, epoch, out)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run(what, data, checkpoint, 0, out)
    assert finished.returncode == 0, finished.stderr
    told = json.loads((tmp_path / "out-0.json").read_text())
    heard = []
    expected = TRAINED[what](*arguments[what], heard.append).save(tmp_path / "whole")
    assert told["digest"] == expected == digest(tmp_path / "whole")
    assert [(e["number"], e["resumed"]) for e in told["told"]][:2] == [(3, True), (4, False)]
    assert told["told"][1:] == [vars(epoch) for epoch in heard[3:]]


@pytest.mark.endurance
def test_a_training_killed_at_any_moment_leaves_a_whole_checkpoint_or_none(arguments, tmp_path):
    data, checkpoint, out = tmp_path / "data", tmp_path / "kept" / "c.safetensors", tmp_path / "out"
    data.write_bytes(pickle.dumps(arguments["ranker"]))
    for pause in (0.0, 0.03):
        process = subprocess.Popen([sys.executable, *command("ranker", data, checkpoint, 0, out)], env=environment())  # fmt: skip
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.001)
        time.sleep(pause)
        process.kill()
        process.wait()
    finished = run("ranker", data, checkpoint, 0, out)
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "out-0.json").read_text())
    assert found["told"][0]["resumed"]
    assert found["digest"] == train_ranker(*arguments["ranker"]).save(tmp_path / "whole")


def curves(what, data, folder, processes):
    """The loss of every epoch and the digest of the model, by rank, of a training by so many processes."""
    by_torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    ran = subprocess.run(
        [*by_torchrun, *command(what, data, "", 0, folder / f"of{processes}")],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = [json.loads((folder / f"of{processes}-{rank}.json").read_text()) for rank in range(processes)]
    return [[epoch["loss"] for epoch in one["told"]] for one in found], [one["digest"] for one in found]


STILL = {
    "ranker": {"dropout": 0.0, "rows_per_batch": 101},
    "retriever": {"dropout": 0.0, "cold_start": 0.0, "negatives": 60, "users_per_batch": 61},
}
"""Settings under which a step draws nothing but what all processes draw alike, and batches do not halve evenly."""


@pytest.mark.endurance
@pytest.mark.parametrize("what", ["ranker", "retriever"])
def test_two_processes_take_the_steps_of_one(what, arguments, tmp_path):
    data = tmp_path / "data"
    training, validation, config, *signatures = arguments[what]
    config = config.model_copy(update=STILL[what])
    data.write_bytes(pickle.dumps((training, validation, config, *signatures)))
    alone = []
    TRAINED[what](training, validation, config, *signatures, alone.append)
    losses, digests = curves(what, data, tmp_path, 2)
    assert losses[0] == losses[1]
    assert digests[0] == digests[1]
    np.testing.assert_allclose(losses[0], [epoch.loss for epoch in alone], rtol=2e-4)


@pytest.mark.endurance
def test_with_dropout_two_processes_have_the_curve_of_one_but_for_what_they_drop(arguments, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(pickle.dumps(arguments["ranker"]))
    alone = []
    train_ranker(*arguments["ranker"], alone.append)
    losses, _ = curves("ranker", data, tmp_path, 2)
    np.testing.assert_allclose(losses[0], [epoch.loss for epoch in alone], rtol=0.03)
    assert losses[0] != [epoch.loss for epoch in alone]
