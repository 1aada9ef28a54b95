"""Everything that only a GPU can show, in one command: checks against the CPU, then the speed of 1B and 8B models.

Usage: make gpu, or python experiments/benchmarks/gpu.py [--device cuda] [--json FILE] [--table FILE] [--sections A,B]
It needs torch, transformers and safetensors, and no network. Each section is a process with a time limit, so a section
that fails, hangs or breaks the device loses its own rows only. `--device cpu --small` runs tiny models on a CPU.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOTAL = 470.0  # seconds of all sections
Row = dict[str, Any]
PYTEST_NEEDS = ("pytest", "lm_eval", "hydra", "peft", "optuna", "cma", "ray")


@dataclass(frozen=True)
class Section:
    """A part of the measurement: what it runs, in a process of its own, and after how many seconds it is stopped."""

    name: str
    seconds: float
    run: Callable[[Any], Iterator[Row]]


def _checks(setting: Any) -> Iterator[Row]:
    import _gpu_checks

    return _gpu_checks.run(setting)


def _measure(module: str, size: str, setting: Any) -> Iterator[Row]:
    found: Iterator[Row] = importlib.import_module(module).run(size, setting)
    return found


def _tests(setting: Any) -> Iterator[Row]:
    """The tests of the repository that are marked `gpu`, where pytest and what the tests import are installed."""
    lacking = [name for name in PYTEST_NEEDS if importlib.util.find_spec(name) is None]
    if lacking or not setting.is_cuda:
        yield {"case": "tests", "note": f"left out: {', '.join(lacking) or 'a GPU'} is not there"}
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    command += ["--ignore", "tests/experiments/test_benchmark_gpu.py"]  # the checks above
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()] or [done.stderr[-300:]]
    yield {"case": "tests", "ok": done.returncode == 0, "note": lines[-1]}


SECTIONS = (
    Section("checks", 150, _checks),
    Section("write 1B", 50, partial(_measure, "_gpu_write", "1B")),
    Section("write 8B", 100, partial(_measure, "_gpu_write", "8B")),
    Section("score 1B", 25, partial(_measure, "_gpu_score", "1B")),
    Section("score 8B", 40, partial(_measure, "_gpu_score", "8B")),
    Section("generate 1B", 30, partial(_measure, "_gpu_generate", "1B")),
    Section("generate 8B", 50, partial(_measure, "_gpu_generate", "8B")),
    Section("tests", 40, _tests),
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="checks and benchmarks of a GPU")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to see that it runs")
    parser.add_argument("--small", action="store_true", help="tiny models, which only show that it runs")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where the rows are written")
    parser.add_argument("--table", type=Path, default=Path("gpu.md"), help="where the tables are written")
    parser.add_argument("--sections", default=",".join(section.name for section in SECTIONS))
    parser.add_argument("--seconds", type=float, default=TOTAL, help="of all sections together")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # of a section's own process
    options = parser.parse_args(arguments)
    names = [section.name for section in SECTIONS]
    for name in options.sections.split(","):
        if name not in names:
            parser.error(f"--sections {name}: choose of {', '.join(names)}")
    options.chosen = [section for section in SECTIONS if section.name in options.sections.split(",")]
    return options


def run_section(section: Section, options: argparse.Namespace) -> None:
    """Write the rows of a section, one line each as soon as it is known."""
    from _gpu_family import Setting

    with tempfile.TemporaryDirectory(prefix="gpu-") as folder, options.rows.open("a") as file:
        os.environ["EVOMERGE_CACHE"] = folder
        for row in section.run(Setting(options.device, Path(folder), options.small)):
            print(json.dumps(row), file=file, flush=True)


def measured(section: Section, options: argparse.Namespace, seconds: float) -> list[Row]:
    """The rows of one section, from its own process; the last one says why it ended, if it did not end well."""
    with tempfile.TemporaryDirectory() as folder:
        rows, words = Path(folder) / "rows", Path(folder) / "stderr"
        command = _command(section.name, rows, options)
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        begun = time.monotonic()
        with words.open("w") as file:
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=ROOT
            )
            reason = _wait(process, seconds)
        found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []
        if process.returncode and not reason:
            reason = (words.read_text().strip().splitlines() or [f"exit status {process.returncode}"])[-1][:300]
    found = [row | {"ok": False} if row.get("seconds", 0) is None else row for row in found]  # the contestant failed
    if reason:
        found.append({"case": section.name, "ok": False, "note": reason})
    return [row | {"section": section.name, "section_seconds": round(time.monotonic() - begun, 1)} for row in found]


def _command(name: str, rows: Path, options: argparse.Namespace) -> list[str]:
    """The process of a section, with the isolation of this one."""
    isolation = ["-S"] * bool(sys.flags.no_site)
    words = ["--sections", name, "--rows", str(rows), "--device", options.device, *["--small"] * bool(options.small)]
    return [sys.executable, *isolation, __file__, *words]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """Wait for a section; the reason if it had to be stopped, together with the processes that it has started."""
    try:
        process.wait(seconds)
        return None
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} seconds; the rows above are complete"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def setting_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    import torch
    from _rows import environment

    found = environment(options.device, torch.get_num_threads(), transformers=_version("transformers"))
    if options.device != "cpu":
        properties = torch.cuda.get_device_properties(options.device)
        found |= {"gpu_gb": round(properties.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return found


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def main() -> int:
    """Run all sections, write the rows after each; 1 if something failed."""
    options = parse()
    if options.rows:
        run_section(options.chosen[0], options)
        return 0
    import torch
    from _gpu_tables import page

    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"gpu.py: --device {options.device}: there is no CUDA device; --device cpu --small shows that it runs")
    setting, rows, end = setting_of(options), list[Row](), time.monotonic() + options.seconds
    for section in options.chosen:
        left = end - time.monotonic()
        if left < 5:
            rows.append({"section": section.name, "case": section.name, "ok": False, "note": "no time was left"})
        else:
            sys.stderr.write(f"{section.name}: at most {min(left, section.seconds):.0f} seconds\n")
            rows += measured(section, options, min(left, section.seconds))
        options.json.write_text(json.dumps({"environment": setting, "rows": rows}, indent=1) + "\n")
        options.table.write_text(page(setting, rows))
    sys.stdout.write(page(setting, rows))
    return 1 if any(row.get("ok") is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
