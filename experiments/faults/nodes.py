"""A cluster of Ray in a box: a head and two nodes with one worker each, of which one is lost, and comes back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from experiments.faults.observed import differences, outcome, paid_twice
from experiments.faults.ray_faults import COUNTS, WORKERS
from experiments.faults.table import Row
from experiments.faults.trial_run import Ended, Place, run_child, wait_for_lines
from experiments.faults.trials import Setting, Tally, Trials, not_run

FEW = 40  # one of so many kills of the driver is one of these rows
AWAY = 5.0  # seconds for which a node is away
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "lose\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        nodes.append(cluster.add_node(num_cpus=1))
    print("done", flush=True)
cluster.shutdown()
"""
Tell = Callable[[str], None]  # a word to the cluster: lose, or join


def lost(trials: Trials) -> Iterator[Row]:
    """A node is lost, and stays away or comes back; a network that is cut is not among these faults."""
    yield _row(trials, "a node is lost (Ray)", comes_back=False)
    yield _row(trials, "a node is lost and comes back (Ray)", comes_back=True)
    yield not_run("a node is cut off and healed (Ray)", "the network between two nodes", "nodes share one network here")


def _row(trials: Trials, name: str, *, comes_back: bool) -> Row:
    tally, wanted = Tally(), trials.undisturbed(replace(Setting(), uncompared=COUNTS)).outcome
    for _ in range(trials.some(FEW, least=1)):
        with _cluster() as (address, tell):
            pool = {"name": "ray", "workers": WORKERS, "address": address}
            place = trials.new_place(Setting((("pool", pool),)))
            ended = _searched(place, tell, trials.random.randint(3, 40), comes_back)
        tally.hits += ended.is_hit
        wrong = [f"exit code {ended.code}: {ended.line}"] if ended.code else differences(outcome(place, COUNTS), wanted)
        tally.add(wrong)
        tally.paid_twice = max(tally.paid_twice, 0 if ended.code else paid_twice(place))
    return tally.row(name, "a random chunk; no command is repeated")


def _searched(place: Place, tell: Tell, lines: int, comes_back: bool) -> Ended:
    """A search during which a node is lost, as soon as the ledger has some lines."""

    def meddle(pid: int) -> bool:
        is_hit = wait_for_lines(place, pid, lines)
        tell("lose")
        if comes_back:
            time.sleep(AWAY)
            tell("join")
        return is_hit

    return run_child(place, meddle=meddle)


@contextmanager
def _cluster() -> Iterator[tuple[str, Tell]]:
    """The address of a new cluster, and how to take a node from it."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        replies, words = process.stdout, process.stdin

        def tell(word: str) -> None:
            words.write(f"{word}\n")
            words.flush()
            _reply(replies, "done")

        yield _reply(replies, ":"), tell


def _reply(lines: Iterator[str], part: str) -> str:
    """The next line with this part in it: Ray prints lines of its own."""
    return next(line.strip() for line in lines if part in line and " " not in line.strip())
