"""How fast a candidate's weights are written: evomerge, plain torch and mergekit in turn, against the speed of a copy.

Usage: python experiments/benchmarks/materialize.py [--quick] [--json FILE] [--sizes 10M,135M,1B] [--experts 2,3,5,8]
README.md beside this file says what the columns mean.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _cases import ADAPTERS, METHODS, Case, cases
from _engine import (
    COMPILE,
    FIRST,
    check_agreement,
    copy_bytes,
    copying,
    engine,
    engines,
    plain_torch,
    products,
    writing,
)
from _families import SIZES, build, lacking
from _mergekit import Mergekit, find_mergekit, mergekit_command, our_command
from _rows import Contestant, Race, Row, Skip, environment, print_table, ratio_cell, seconds_cell, write_json


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is misspelt ends the program with one line."""
    parser = argparse.ArgumentParser(description="benchmark of evomerge's merge engine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each case")
    parser.add_argument("--quick", action="store_true", help="a tiny family and two repeats: shows that it runs")
    parser.add_argument("--sizes", help=f"of {', '.join(SIZES)}; default 10M,135M,1B")
    parser.add_argument("--experts", help="numbers of full experts, such as 2,3,5,8; default 3")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, help="default 7")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one contestant in one case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--compile", default="auto,never", help="the engine's modes; the first one is `ours`")
    mergekit = parser.add_mutually_exclusive_group()
    mergekit.add_argument("--mergekit", metavar="PATH", help="its environment or its mergekit-yaml")
    mergekit.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--no-commands", action="store_true", help="leave out the whole commands, which write to disk")
    parser.add_argument("--scratch", type=Path, help="where families are written; default: the temporary folder")
    options = parser.parse_args(arguments)
    options.sizes = _words(parser, "--sizes", options.sizes or ("1M" if options.quick else "10M,135M,1B"), SIZES)
    options.methods = _words(parser, "--methods", options.methods, METHODS)
    options.compile = _words(parser, "--compile", options.compile, COMPILE)
    options.experts = _counts(parser, options.experts or ("2" if options.quick else "3"))
    options.repeats = options.repeats or (2 if options.quick else 7)
    options.no_mergekit |= (options.quick and options.mergekit is None) or options.device != "cpu"
    options.no_commands |= options.quick or options.device != "cpu"
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: this machine has no CUDA device")
    return options


def _words(parser: argparse.ArgumentParser, flag: str, text: str, known: object) -> list[str]:
    names = list(known)  # type: ignore[call-overload]
    for word in text.split(","):
        if word not in names:
            parser.error(f"{flag} {word}: choose one of {', '.join(names)}")
    return text.split(",")


def _counts(parser: argparse.ArgumentParser, text: str) -> list[int]:
    if not all(word.isdecimal() and int(word) > 0 for word in text.split(",")):
        parser.error(f"--experts {text}: give whole numbers from 1 on, such as 2,3,5,8")
    return [int(word) for word in text.split(",")]


def race_case(case: Case, copy: Contestant, mergekit: Mergekit | None, options: argparse.Namespace) -> list[Row]:
    """All contestants of one case in turn; the engine's first candidate, which prepares and compiles, is apart."""
    device, first = options.device, {}
    contestants: dict[str, Contestant] = {"copy": copy}
    for name, mode in engines(options.compile).items():
        contestants[name] = writing(case, engine(case.members.family, device, mode), device)
        first[name] = contestants[name](FIRST)
        check_agreement(case, device)
    contestants["plain torch"] = plain_torch(case, device)
    if case.label == "adapters" and device == "cpu":
        contestants["the products alone"] = products(case)
    if mergekit:
        contestants["mergekit"] = mergekit.contestant(case, "float32")
        contestants["mergekit in bf16"] = mergekit.contestant(case, "bfloat16")
    race = Race(options.repeats, options.limit).run(contestants)
    rows = [race.row(name, "ours") | {"first_seconds": first.get(name)} for name in contestants]
    return [case.labels | row for row in with_share(rows, case.bytes, copy_bytes(device))]


def with_share(rows: list[Row], needed: int, copied: int) -> list[Row]:
    """Bytes that must move, and the share of the measured seconds that a copy of as many bytes would take."""
    copy, *others = rows
    floor = needed * copy["seconds"] / copied
    shares = [{"bytes": needed, "share": floor / row["seconds"] if row["seconds"] else None} for row in others]
    alone = {"bytes": copied, "share": 1.0, "ratio": None, "ratio_spread": None}  # it moves another amount
    return [copy | alone, *(row | share for row, share in zip(others, shares, strict=True))]


def race_commands(case: Case, mergekit: Mergekit | None, options: argparse.Namespace, folder: Path) -> list[Row]:
    """Both whole commands, from a recipe to a checkpoint folder on disk."""
    contestants = {"evomerge merge": our_command(case, folder / "ours", options.threads)}
    if mergekit:
        contestants["mergekit-yaml"] = mergekit_command(case, mergekit, folder / "theirs")
    race = Race(min(options.repeats, 3), options.limit, warm_up=False).run(contestants)
    empty = {"first_seconds": None, "bytes": case.bytes, "share": None}
    return [case.labels | race.row(name, "evomerge merge") | empty for name in contestants]


def measure(options: argparse.Namespace, mergekit: Mergekit | None, folder: Path) -> Iterator[list[Row]]:
    """The rows of one case after the other; a family is removed before the next one is made."""
    copy, most = copying(options.device), max(options.experts)
    for size in options.sizes:
        if reason := lacking(size, most, folder, options.device):
            announce(f"{size}: left out, {reason}")
            continue
        announce(f"{size}: making {most} experts and {ADAPTERS} adapters")
        members = build(size, most, ADAPTERS, folder / size, options.device)
        for case in cases(members, options.methods, options.experts):
            announce(f"{size}: {case.label}, {len(case.experts)} experts")
            yield race_case(case, copy, mergekit, options)
            if not options.no_commands:
                yield race_commands(case, mergekit, options, folder / size)
        del members, case
        shutil.rmtree(folder / size)


def announce(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: f"{row['case']} {row['size']} ×{row['experts']}",
    "contestant": lambda row: str(row["name"]),
    "first s": lambda row: f"{row['first_seconds']:.3g}" if row["first_seconds"] is not None else "",
    "seconds": seconds_cell,
    "× ours": ratio_cell,
    "of a copy": lambda row: f"{row['share']:.1%}" if row["share"] is not None else "",
    "GB/s": lambda row: f"{row['bytes'] / row['seconds'] / 1e9:.3g}" if row["share"] is not None else "",
}


def start_mergekit(options: argparse.Namespace) -> Mergekit | None:
    """mergekit's process, or None with the reason on the terminal."""
    if options.no_mergekit:
        announce("mergekit: left out" + ("" if options.device == "cpu" else ", it is measured on a CPU only"))
        return None
    try:
        return Mergekit(find_mergekit(options.mergekit), options.threads)
    except Skip as reason:
        announce(f"mergekit: left out, {reason}")
        return None


def main() -> None:
    """Measure, print, write."""
    options, rows = parse(), []
    torch.set_num_threads(options.threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # gigabytes of families are removed then, too
    mergekit = start_mergekit(options)
    setting = environment(options.device, options.threads, **({"mergekit": mergekit.version} if mergekit else {}))
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="materialize-") as folder:
        for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "EVOMERGE_CACHE"):
            os.environ[variable] = str(Path(folder) / variable.lower())  # no first candidate profits from another run
        for found in measure(options, mergekit, Path(folder)):
            rows += found
            if options.json:
                write_json(rows, options.json, setting)  # a long run that is stopped keeps its rows
    if mergekit:
        mergekit.close()
    print_table(", ".join(f"{key} {value}" for key, value in setting.items()), COLUMNS, rows)


if __name__ == "__main__":
    main()
