"""Write the rows of three skills: addition and subtraction, domains of requests, sentiment of film reviews.

Usage: python experiments/skills/data.py SOURCES [--out data] [--seed 0]

SOURCES holds clones of two repositories, whose splits are used as they are:
    git clone https://github.com/clinc/oos-eval                                      CLINC150, CC BY 3.0
    git clone https://github.com/clairett/pytorch-sentiment-classification           SST-2, no licence: do not publish
The arithmetic is generated. Each skill has the files train.jsonl, val.jsonl (200 rows) and test.jsonl (400 rows) in
OUT/<skill>. A val.jsonl or test.jsonl that is there already is kept, and train.jsonl has none of its queries.
"""

import argparse
import json
import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]

SIZES = {"val": 200, "test": 400}
DOMAINS = {
    "banking": "banking",
    "kitchen_and_dining": "cooking",
    "home": "home",
    "auto_and_commute": "cars",
    "travel": "travel",
    "work": "work",
}
CLINC = Path("oos-eval") / "data"
SST2 = Path("pytorch-sentiment-classification") / "data" / "SST2"
ERRORS = (1, -1, 2, -2, 9, -9, 10, -10, 11, -11, 20, -20)  # a slip in one digit, a forgotten carry

log = logging.getLogger("data")


class DataError(Exception):
    """The data cannot be written; the message is one line with the remedy."""


def arithmetic(_: Path, rng: random.Random) -> Splits:
    """Sums of two-digit numbers and their differences that are not negative; each problem is in one split."""
    pairs = [(left, right) for left in range(10, 100) for right in range(10, 100)]
    problems = [(left, "plus", right) for left, right in pairs]
    problems += [(left, "minus", right) for left, right in pairs if left >= right]
    rng.shuffle(problems)
    rows = [problem_row(*problem, rng) for problem in problems]
    first, second = SIZES["val"], SIZES["val"] + SIZES["test"]
    return {"val": rows[:first], "test": rows[first:second], "train": rows[second:]}


def problem_row(left: int, operation: str, right: int, rng: random.Random) -> Row:
    answer = left + right if operation == "plus" else left - right
    possible = [answer + error for error in ERRORS if answer + error >= 0]
    choices = [answer, *rng.sample(possible, 3)]
    rng.shuffle(choices)
    query = f"Question: What is {left} {operation} {right}?\nAnswer:"
    return {"query": query, "choices": [str(choice) for choice in choices], "gold": choices.index(answer)}


def requests(sources: Path, rng: random.Random) -> Splits:
    """CLINC150's own splits, six of its ten domains."""
    intents = json.loads(read(sources / CLINC / "domains.json"))
    domain = {intent: DOMAINS[name] for name, members in intents.items() if name in DOMAINS for intent in members}
    choices = list(DOMAINS.values())
    splits: Splits = {}
    for split, pairs in json.loads(read(sources / CLINC / "data_full.json")).items():
        if not split.startswith("oos_"):
            kept = [(text, domain[intent]) for text, intent in pairs if intent in domain]
            splits[split] = labelled(kept, "Request: {}\nDepartment:", choices, rng)
    return splits


def reviews(sources: Path, rng: random.Random) -> Splits:
    """SST-2's own splits: whole sentences, as in the published test set."""
    splits: Splits = {}
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        lines = read(sources / SST2 / f"{name}.tsv").splitlines()
        pairs = [line.rsplit("\t", 1) for line in lines]
        kept = [(text, ("negative", "positive")[int(label)]) for text, label in pairs]
        splits[split] = labelled(kept, "Review: {}\nSentiment:", ["negative", "positive"], rng)
    return splits


def labelled(pairs: Iterable[tuple[str, str]], query: str, choices: list[str], rng: random.Random) -> list[Row]:
    rows: list[Row] = [
        {"query": query.format(text), "choices": choices, "gold": choices.index(label)} for text, label in pairs
    ]
    rng.shuffle(rows)
    return rows


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): clone the repositories that --help names") from error


SKILLS: dict[str, Callable[[Path, random.Random], Splits]] = {"arith": arithmetic, "clinc": requests, "sst2": reviews}


def rows_of(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def key(query: str) -> str:
    """A query without case, punctuation and spacing, so that near duplicates are found too."""
    return "".join(character for character in query.lower() if character.isalnum())


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    log.info("%s: %d rows", path, len(rows))


def make(skill: str, sources: Path, out: Path, seed: int) -> None:
    splits = SKILLS[skill](sources, random.Random(f"{seed} {skill}"))
    seen: set[str] = set()
    for split, size in SIZES.items():
        path = out / skill / f"{split}.jsonl"
        if not path.is_file():
            write(path, splits[split][:size])
        seen |= {key(row["query"]) for row in rows_of(path)}
    unseen = [row for row in splits["train"] if key(row["query"]) not in seen]
    write(out / skill / "train.jsonl", unseen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for skill in SKILLS:
            make(skill, options.sources, options.out, options.seed)
    except DataError as error:
        log.error("data: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
