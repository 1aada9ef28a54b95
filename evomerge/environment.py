"""What a result was made with: versions and machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "evomerge",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "lm_eval",
    "cma",
    "optuna",
    "numpy",
    "ray",
)


def versions() -> dict[str, str]:
    """Package → version, for the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed, a machine without ray
            continue
    return found


def machine() -> dict[str, Any]:
    """Cores, threads and accelerators of this machine."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": devices,
    }


def free_host_memory() -> int:
    """Bytes that the host can still give, page cache included; all of its memory where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
