"""Peak FLOP rates of accelerators, and the share of them that estimates assume."""

from __future__ import annotations

from pathlib import Path

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A6000": 155e12,
    "A40": 150e12,
    "4090": 165e12,
    "V100": 125e12,
}
"""Dense 16-bit tensor-core FLOP/s by a part of the device's name (data sheets)."""
ASSUMED_DEVICE = "A100"
ASSUMED_MFU = 0.3
"""Assumed share of the peak (model FLOP utilisation)."""


def device_name(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """Name of the first GPU according to its driver, without torch; empty if there is none."""
    for file in sorted(drivers.glob("*/information")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""


def peak_flops(device: str) -> tuple[str, float]:
    """Entry of ``PEAKS`` for this device name and its FLOP/s.

    An unknown device counts as an A100.
    """
    known = next((name for name in PEAKS if name in device), ASSUMED_DEVICE)
    return known, PEAKS[known]


def gpu_hours(flops: float, device: str = "", mfu: float = ASSUMED_MFU) -> float:
    """Hours that one ``device`` takes for ``flops`` operations at the share ``mfu`` of its peak."""
    return flops / (peak_flops(device)[1] * mfu) / 3600
