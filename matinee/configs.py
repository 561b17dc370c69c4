"""Where the experiments that come with matinee lie."""

from __future__ import annotations

from pathlib import Path

import experiments

CONFIGS = Path(experiments.__file__).parent / "configs"
