"""The rule about the memory of the GPU: what the placement plans for, against the memory of the contest's GPU."""

from evomerge.environment import free_host_memory
from evomerge.errors import ConfigError
from evomerge.merging import AvailableMemory, MemoryNeed, Mode, plan_placement
from evomerge.rules.verdict import Verdict

REMEDY = "model.placement=mmap, a smaller dtype, fewer or smaller experts"


def judge_gpu_memory(need: MemoryNeed, limit_gb: float, mode: Mode | None, *, workers: int, cluster: bool) -> Verdict:
    """Whether live models and sources of all workers fit into one GPU of the limit, activations included.

    `mode` is the placement that a search here would use on its GPU; None where it has none, and the placement for a
    GPU of the limit is planned. Workers of a cluster plan with their own GPUs, which may be larger.
    """
    planned = mode or _planned_mode(need, limit_gb * 1e9 / workers)
    if planned is None:
        planned = "mmap"  # the smallest
    taken = workers * need.device_size(planned)
    reason = f"{taken / 1e9:.3g} GB with placement {planned}{f' and {workers} workers' * (workers > 1)}"
    reason += f", activations included, of {limit_gb:g} GB"
    if taken > limit_gb * 1e9:
        return Verdict("GPU memory", "run", "broken", reason, REMEDY)
    if mode is None and cluster and workers * need.device_size("device") > limit_gb * 1e9:
        reason += "; a larger GPU of the cluster would hold more"
        return Verdict("GPU memory", "run", "unknown", reason, f"model.placement={planned}")
    return Verdict("GPU memory", "run", "ok", reason)


def _planned_mode(need: MemoryNeed, device: float) -> Mode | None:
    """The placement on a device with so many bytes; None where none fits."""
    try:
        return plan_placement(need, AvailableMemory(int(device), free_host_memory()))
    except ConfigError:
        return None
