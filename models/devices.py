"""Where training computes: the device, the precision on it, and with whom."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.parallel import Team

T = TypeVar("T")


class NoSuchDevice(RuntimeError):
    """A device was asked for that this machine does not have."""


@dataclass(frozen=True)
class Hardware:
    """A device, the lower precision of its matrix products (None: float32 throughout), and the team training on it."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    low: torch.dtype | None = None
    team: Team = field(default_factory=Team)

    @property
    def name(self) -> str:
        """What decides how sums are rounded, for a person and for comparison.

        >>> Hardware().name
        'cpu'
        >>> Hardware(low=torch.bfloat16).name
        'cpu, bfloat16'
        """
        of = self.device.type if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return of if self.low is None else f"{of}, {str(self.low).removeprefix('torch.')}"

    @property
    def gpus(self) -> list[torch.device]:
        """The devices with random generators of their own."""
        return [] if self.device.type == "cpu" else [self.device]

    def autocast(self) -> torch.autocast:
        """The block in which a loss is computed: matrix products in the lower precision, sums in float32."""
        return torch.autocast(self.device.type, dtype=self.low, enabled=self.low is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients from vanishing in float16; with any other precision it does nothing.

        It begins low, so that the first step, of the highest rate, is not one that overflows and is left out.
        """
        return torch.amp.GradScaler(self.device.type, init_scale=2.0**10, enabled=self.low is torch.float16)

    def moved(self, value: T) -> T:
        """A dataclass, mapping or tensor with its tensors on the device; anything else as it is."""
        moved: T = value if self.device.type == "cpu" else _moved(value, self.device)
        return moved

    def worked_on(self, network: nn.Module) -> nn.Module:
        """The network itself on a processor, a copy of it on a GPU."""
        return network if self.device.type == "cpu" else copy.deepcopy(network).to(self.device)

    def in_memory(self, network: nn.Module) -> nn.Module:
        """The network itself on a processor, of one on a GPU a copy in memory: what is judged is what will serve."""
        return network if self.device.type == "cpu" else copy.deepcopy(network).cpu()


def hardware(asked: str = "auto") -> Hardware:
    """The hardware for a `device` setting: `auto` is the GPU if there is one; a team's members have one each.

    On a GPU products are in bfloat16, or float16 with scaled gradients where it has no bfloat16.

    Raises:
        NoSuchDevice: `cuda` where PyTorch sees no GPU; or another name than auto, cpu, cuda.
    """
    if asked not in {"auto", "cpu", "cuda"}:
        raise NoSuchDevice(f"no device {asked!r}: there are auto, cpu and cuda.")
    if asked == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        raise NoSuchDevice(
            f"device 'cuda' is asked for, and PyTorch {torch.__version__} (built with {built}) sees no GPU; "
            "say 'auto' or 'cpu'."
        )
    team = Team.here()
    if asked == "cpu" or not torch.cuda.is_available():
        return Hardware(team=team)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    low = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return Hardware(device, low, team)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    return value
