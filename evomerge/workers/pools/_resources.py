"""How many workers fit on the nodes of a cluster."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import ConfigError

UNLIMITED = 10**6  # workers that fit on a node if they claim neither CPUs nor GPUs


@dataclass(frozen=True)
class Claim:
    """The CPUs and GPUs that each worker reserves; a fraction of a GPU is on a single GPU."""

    cpus: float
    gpus: float

    def capacity(self, node: Mapping[str, float]) -> float:
        """The number of workers that fit on a node."""
        by_cpu = math.floor(node.get("CPU", 0.0) / self.cpus + 1e-9) if self.cpus else math.inf
        if not self.gpus:
            return by_cpu if math.isfinite(by_cpu) else float(UNLIMITED)
        gpus = int(node.get("GPU", 0.0))
        by_gpu = gpus * math.floor(1 / self.gpus + 1e-9) if self.gpus < 1 else gpus // int(self.gpus)
        return min(by_cpu, by_gpu)

    def refuse_missing(self, nodes: Sequence[Mapping[str, float]], workers: int) -> None:
        """ConfigError if the nodes have not enough resources, because Ray would wait for them without end."""
        room = sum(map(self.capacity, nodes))
        if room < workers:
            have = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
            raise ConfigError(
                f"pool: {workers} workers of {self.cpus:g} CPU and {self.gpus:g} GPU each, but there is room for "
                f"{room:g} (nodes: {have}); lower pool.workers, pool.num_cpus or pool.num_gpus"
            )
