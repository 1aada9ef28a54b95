"""A hub that is offline, silent, limits the rate of requests, or refuses a gated model: one line, within a minute."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from experiments.faults.table import Row
from experiments.faults.trial_run import CRASHED, REFUSED, Ended, Place
from experiments.faults.trials import Trials

LIMIT = 120.0  # seconds in which the line must be there
SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer()
    def do_GET(self):
        self.answer()
    def answer(self):
        status = 200 if self.path == "/" and sys.argv[1] != "silent" else sys.argv[1]
        if status == "silent":
            time.sleep(1000)
        self.send_response(int(status))
        for header in sys.argv[2:]:
            self.send_header(*header.split(": "))
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_port, flush=True)
server.serve_forever()
"""
ANSWERS: dict[str, tuple[str, ...]] = {
    "a hub that limits the rate of requests (429)": ("429", "Retry-After: 1"),
    "a gated model (403)": ("403", "X-Error-Code: GatedRepo"),
    "a model that the hub does not have (404)": ("404", "X-Error-Code: RepoNotFound"),
    "a hub that fails (500)": ("500",),
    "a hub that accepts connections and never answers": ("silent",),
}


def refused(trials: Trials) -> Iterator[Row]:
    """A row for each answer of a hub on this machine, and one for a hub that is switched off."""
    yield _row(trials, "offline: HF_HUB_OFFLINE is set", {"HF_HUB_OFFLINE": "1"})
    yield _row(trials, "a hub that cannot be reached", {"HF_ENDPOINT": "http://127.0.0.1:9"})
    for name, answer in ANSWERS.items():
        with _server(answer) as address:
            yield _row(trials, name, {"HF_ENDPOINT": address})


@contextmanager
def _server(answer: tuple[str, ...]) -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", SERVER, *answer], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def _row(trials: Trials, name: str, variables: dict[str, str]) -> Row:
    place = trials.new_place()
    config = place.config()
    config["experts"]["last"] = "some-owner/some-model"
    place.experiment.write_text(yaml.safe_dump(config), encoding="utf-8")
    ended = _run(place, variables)
    wrong = [] if ended.code in REFUSED else [f"exit code {ended.code}: {ended.line}"]
    if ended.seconds > LIMIT:
        wrong.append(f"the line is there after {ended.seconds:.0f} s")
    said = ended.line.replace(str(place.root), "…").replace("|", "\\|")
    return Row(name, "", 1, 1 - bool(wrong), f"`{said[:250]}`", tuple(wrong))


def _run(place: Place, variables: dict[str, str]) -> Ended:
    """The search in a process of its own, because the hub's client reads its variables once."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", str(place.experiment), "--out", str(place.run)],
        env=here | {"HF_HOME": str(place.root / "hub"), "EVOMERGE_CACHE": str(place.cache)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * LIMIT,
    )
    code = CRASHED if "Traceback" in done.stderr else done.returncode
    lines = (done.stdout + done.stderr).strip().splitlines()
    return Ended(code, time.monotonic() - begun, lines[-1] if lines else "")
