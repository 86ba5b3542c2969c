"""What an accelerator uses, as its driver counts it; the only module that asks NVML."""

import time
from typing import Any, Literal

import torch

from vilam3.train.plan import ACCELERATORS

Kind = Literal["measured", "at most", "unknown"]
ASK_EVERY_S = 1.0  # it may take the driver milliseconds


class Meter:
    """The joules of one device since this was made."""

    def __init__(self, device: torch.device) -> None:
        """A processor has none that could be told from what else runs on it."""
        self.name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self._handle = _handle(device) if self.name else None
        self._watts = _limit_w(self._handle, self.name) if self.name else 0.0
        self._began_s = time.monotonic()
        self._first_j = _counter_j(self._handle)
        self._newest = (0.0, float("-inf"))

    @property
    def kind(self) -> Kind:
        """How much `joules` is worth."""
        if self._first_j is not None:
            return "measured"
        return "at most" if self._watts else "unknown"

    def joules(self) -> float:
        """Used so far; where the driver does not count, the power limit times the time."""
        joules, asked_s = self._newest
        now = time.monotonic()
        if now - asked_s < ASK_EVERY_S:
            return joules
        if self._first_j is None:
            joules = self._watts * (now - self._began_s)
        elif (found_j := _counter_j(self._handle)) is not None:
            joules = found_j - self._first_j
        self._newest = (joules, now)
        return joules


def _handle(device: torch.device) -> Any:  # noqa: ANN401 - of NVML
    """The device as NVML knows it, by its identity: the numbers of NVML are not those of torch."""
    try:
        import pynvml  # noqa: PLC0415 - machines without accelerators do not have its library

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except Exception:  # noqa: BLE001 - no driver, no right, a part of a device: each has an error of its own
        return None


def _counter_j(handle: Any) -> float | None:  # noqa: ANN401 - of NVML
    if handle is None:
        return None
    try:
        import pynvml  # noqa: PLC0415 - as above

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except Exception:  # noqa: BLE001 - older devices and parts of devices do not count
        return None


def _limit_w(handle: Any, name: str) -> float:  # noqa: ANN401 - of NVML
    """What the device is held to; else what its maker's data sheet says."""
    if handle is not None:
        try:
            import pynvml  # noqa: PLC0415 - as above

            return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000
        except Exception:  # noqa: BLE001, S110 - then the data sheet
            pass
    return next((float(kind.watts) for kind in ACCELERATORS.values() if kind.product in name), 0.0)
