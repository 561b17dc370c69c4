"""A training in a process of its own, to be killed in the middle or to be one of several: what, where, how.

`python training_program.py WHAT DATA CHECKPOINT DIES_AFTER OUT` trains on the pickled arguments in DATA, kills itself
with SIGKILL when epoch DIES_AFTER is over (0: never), and writes what it told to OUT (rank by rank).
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from models.devices import hardware
from models.parallel import process_group
from models.progress import Epoch
from models.threads import use_threads
from models.train_ranker import train_ranker
from models.train_retrieval import train_retrieval

TRAINED = {"ranker": train_ranker, "retriever": train_retrieval}


def main(what: str, data: Path, checkpoint: Path | None, dies_after: int, out: Path) -> None:
    use_threads(1)
    told: list[dict[str, Any]] = []

    def tell(epoch: Epoch) -> None:
        told.append(vars(epoch))
        if epoch.number == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    with process_group() as team:
        arguments = pickle.loads(data.read_bytes())
        model = TRAINED[what](*arguments, tell, hardware=hardware("cpu"), checkpoint=checkpoint)
        digest = model.save(out.parent / f"{out.name}-{team.rank}-model")
        out.with_name(f"{out.name}-{team.rank}.json").write_text(json.dumps({"told": told, "digest": digest}))


if __name__ == "__main__":
    kind, data_file, checkpoint_file, epoch, out_file = sys.argv[1:]
    main(
        kind, Path(data_file), Path(checkpoint_file) if checkpoint_file else None, int(epoch), Path(out_file)
    )
