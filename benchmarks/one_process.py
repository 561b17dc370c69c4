"""Measuring a piece of work in a process of its own, so that its time and its memory are nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MB = 1024 * 1024


@dataclass(frozen=True)
class Measured:
    """Seconds of wall and of CPU (all threads) of the work alone; memory of the whole process, in MB.

    `before_mb` is what it held when the work began: libraries and prepared inputs. `told` is what the work returned.
    """

    wall_s: float
    cpu_s: float
    before_mb: float
    peak_mb: float
    told: Any


def measured(work: Callable[[], Any]) -> Measured:
    """Do `work` once in this process."""
    before = _resident_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    told = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(wall, cpu, before, _peak_mb(), told)


def tell(found: Measured) -> None:
    """Say what was measured to the process that waits for it."""
    print(f"MEASURED {json.dumps(asdict(found))}")


def in_its_own_process(program: Path, *arguments: str) -> Measured:
    """Run `program` with `arguments`; what its `tell` said.

    Raises:
        RuntimeError: it failed; what it wrote is in the message.
    """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), *arguments],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(program.parent.parent)},
    )  # fmt: skip
    said = [line for line in ran.stdout.splitlines() if line.startswith("MEASURED ")]
    if ran.returncode or not said:
        raise RuntimeError(f"{program.name} {' '.join(arguments)}: {ran.stdout[-2000:]}{ran.stderr[-4000:]}")
    return Measured(**json.loads(said[-1].removeprefix("MEASURED ")))


def _peak_mb() -> float:
    """The most this program ever held; `ru_maxrss` would count what its parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB
