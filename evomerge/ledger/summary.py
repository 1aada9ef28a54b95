"""What a ledger holds, in lines for people; reading it also checks every line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.ledger.lines import complete_length
from evomerge.ledger.reading import chunks_of, read_trials
from evomerge.terminal import duration

SHOWN_REASONS = 3
OTHER_LINES = {
    "race": "generations in which a race stopped candidates",
    "learnt": "results of an asynchronous search",
    "slope": "answers to requests of a descent",
    "stop": "ends of a search by time",
    "cut": "slices or steps that were shortened for lack of time",
    "look": "uses of a slice outside of the search",
    "screen": "screenings of experts",
}


def describe_ledger(path: Path) -> Iterator[str]:
    """Lines about a ledger's header, scores, failures, decisions and times; RunError names a line that is wrong."""
    data = path.read_bytes() if path.is_file() else b""
    header, lines = read_trials(path)
    chunks = chunks_of(header, lines)
    yield f"ledger    {path}: {len(data) / 1e6:.2f} MB, schema {header.get('schema')}, {len(lines)} valid lines"
    if torn := len(data) - complete_length(data):
        yield f"torn      the last {torn} bytes are an incomplete line, which the next command drops"
    yield f"versions  {', '.join(f'{name} {version}' for name, version in header.get('versions', {}).items())}"
    yield from _scores(lines, chunks)
    yield from _failures(lines)
    for kind, what in OTHER_LINES.items():
        if count := sum(kind in line for line in lines):
            yield f"{kind:10}{count} {what}"
    yield from _times(lines)


def _scores(lines: Sequence[Mapping[str, Any]], chunks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    scored = [line for line in lines if "scores" in line]
    for name in dict.fromkeys(chunk.partition("/")[0] for chunk in chunks):
        own = [line for line in scored if line["chunk"].partition("/")[0] == name]
        items, seconds = sum(len(line["scores"]) for line in own), sum(line["seconds"] for line in own)
        models = len({line["key"] for line in own})
        yield f"{name:10}{models} models, {len(own)} chunks, {items} items, {duration(seconds)} of scoring"


def _failures(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    reasons = Counter(line["error"] for line in lines if "error" in line)
    for reason, count in reasons.most_common(SHOWN_REASONS):
        yield f"failed    {count} × {reason}"
    if len(reasons) > SHOWN_REASONS:
        yield f"failed    {len(reasons) - SHOWN_REASONS} more reasons"


def _times(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    longest: dict[int, float] = {}
    for line in lines:
        if "elapsed" in line:
            longest[line["command"]] = max(line["elapsed"], longest.get(line["command"], 0.0))
    if longest:
        yield f"time      {duration(sum(longest.values()))} in {len(longest)} command{'s' * (len(longest) > 1)}"
