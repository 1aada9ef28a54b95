"""The result in words and as the terminal's table: what the run claims, and what it does not."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from evomerge.scoring import KINDS, SLICES
from evomerge.searching import FLOOR_TOLERANCE

Result = Mapping[str, Any]  # what result.json holds
VERDICTS = {
    "better": "better than the best baseline",
    "tie": "a tie with the best baseline",
    "worse": "worse than the best baseline",
}


def result_table(result: Result) -> Table:
    """Baselines, winner, and what else may be built, on every slice and on each task of holdout."""
    tasks = list(result["rows"][-1]["tasks"])
    table = Table()
    table.add_column("model")
    for name in SLICES:
        table.add_column(name, justify="right")
    for task in tasks:
        table.add_column(task, justify="right", style="dim")
    for row in (*result["rows"], *offered(result)):
        cells = [*(row["scores"][name] for name in SLICES), *(row["tasks"].get(task) for task in tasks)]
        table.add_row(name_of(row), *map(number, cells), style="bold" if row["role"] == "winner" else "")
    return table


def comparison_table(result: Result) -> Table:
    """The winner against each baseline on holdout, and what may be said of it."""
    caption = "\n".join((claim(result), *notes(result)))
    table = Table(caption=caption, caption_justify="left", caption_style="")
    table.add_column("against")
    for head in ("winner ahead by", "p", "corrected", ""):
        table.add_column(head, justify="right")
    for found in result["comparisons"]:
        cells = (ahead(found), p_value(found["p"]), p_value(found["corrected"]), found["verdict"])
        table.add_row(found["label"], *cells)
    return table


def offered(result: Result) -> list[Mapping[str, Any]]:
    """The rows of what may be built beside the winner: the simpler recipe and the members of the front."""
    simpler = [result["simpler"]["row"]] if result["simpler"] and result["simpler"]["row"] else []
    return simpler + (result["front"]["members"] if result["front"] else [])


def claim(result: Result) -> str:
    """The one sentence that the run supports."""
    looks = result["counts"]["holdout_looks"]
    again = f"; the holdout was looked at {looks} times, and whoever chose after the first may fit it" * (looks > 1)
    if result["rows"][-1]["label"] == result["best_baseline"]:
        return f"The search found nothing better than a baseline: the winner is {result['best_baseline']}{again}"
    found = next(c for c in result["comparisons"] if c["label"] == result["best_baseline"])
    rival = next(row for row in result["rows"] if row["label"] == found["label"])
    floors = " that keeps the floors" * (bool(result["floors"]) and not _broken(result["floors"], rival["tasks"]))
    return (
        f"On holdout the winner is {VERDICTS[result['verdict']]}{floors} ({found['label']}): {ahead(found)}, "
        f"{found['interval']['level']:.0%} interval, p {p_value(found['corrected'])} "
        f"({found['test']}, corrected for {len(result['comparisons'])} baselines){again}"
    )


def notes(result: Result) -> Iterator[str]:
    """What else belongs to the claim, a line each: ties, gap, floors, optimum, simpler recipe, front."""
    ties = [
        c["label"] for c in result["comparisons"] if c["verdict"] == "tie" and c["label"] != result["best_baseline"]
    ]
    if ties:
        yield f"A tie with {', '.join(ties)} too: these differences may be chance"
    gap, others = result["gap"]["winner"], result["gap"]["baselines"]
    if gap is not None:
        beside = "" if others is None else f", those of the baselines, which nobody chose, by {-others:+.4f}"
        yield f"From search to holdout the winner's score changes by {-gap:+.4f}{beside}"
    yield from _answers(result)
    yield from _floors(result["floors"], result["rows"][-1]["tasks"])
    if result["sensitivity"]:
        yield _around(result["sensitivity"])
    if result["simpler"]:
        yield _without(result["simpler"])
    if result["front"]:
        front = result["front"]
        count = len(front["members"])
        share = f"on holdout dominating {front['share_of_box']:.0%} of the box of all scores"
        yield f"The front has {count} member{'s' * (count != 1)}, {share}"


def _answers(result: Result) -> Iterator[str]:
    """What the generated answers of winner and best baseline were worth, and who was beaten by being cut off."""
    winner = result["rows"][-1]
    if not winner.get("answers"):
        return
    rows = [row for row in result["rows"][:-1] if row["label"] == result["best_baseline"] and row.get("answers")]
    shares = "; ".join(f"{name_of(row)} {shares_of(row['answers'])}" for row in (winner, *rows))
    yield f"Of {winner['answers']['answers']} answers generated on holdout: {shares}"
    if cut := result.get("truncated_more"):
        yield (
            f"Beware: {', '.join(cut)} reached the token limit clearly more often than the winner, which may have won "
            f"by being shorter; raise max_gen_toks to tell"
        )


def shares_of(answers: Mapping[str, int]) -> str:
    """Shares of generated answers that are worth little."""
    return ", ".join(f"{answers[kind] / answers['answers']:.0%} {kind}" for kind in KINDS)


def ahead(found: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    return f"{found['difference']:+.4f} [{found['interval']['low']:+.4f}, {found['interval']['high']:+.4f}]"


def p_value(p: float) -> str:
    """A p-value for a table cell."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def number(value: float | None) -> str:
    """A score for a table cell."""
    return "failed" if value is None or math.isnan(value) else f"{value:.4f}"


def name_of(row: Mapping[str, Any]) -> str:
    """A row's name in a table: for the winner which baseline it is, where it is one."""
    label = str(row["label"])
    if row["role"] == "member":
        return f"front: {label}"
    return label if row["role"] != "winner" or label == "winner" else f"winner (= {label})"


def _floors(floors: Mapping[str, float], means: Mapping[str, float]) -> Iterator[str]:
    """Which floors the winner keeps on holdout, and which it does not."""
    broken = _broken(floors, means)
    kept = [task for task in floors if task not in broken]
    for words, tasks in (("keeps", kept), ("breaks", broken)):
        if tasks:
            levels = ", ".join(f"{task} {number(means[task])} of {number(floors[task])}" for task in tasks)
            yield f"On holdout the winner {words} the floor{'s' * (len(tasks) > 1)}: {levels}"


def _broken(floors: Mapping[str, float], means: Mapping[str, float]) -> list[str]:
    return [task for task, level in floors.items() if means[task] < level - FLOOR_TOLERANCE]


def _around(found: Mapping[str, Any]) -> str:
    """Whether the optimum is flat, in one line."""
    most = max(abs(found["worst"]), abs(found["best"]))
    shape = "flat" if found["flat"] else "not flat"
    return (
        f"The optimum is {shape}: {found['points']} points at radius {found['radius']:g} are within ±{most:.4f} of the "
        f"winner on select, {ahead(found)} in the mean"
    )


def _without(found: Mapping[str, Any]) -> str:
    """What can go, or that nothing can."""
    if not found["steps"]:
        return f"Of {found['tried']} simplifications none came without a loss on select"
    if not found["row"]:
        return f"A simpler recipe could not be scored on holdout: {', '.join(found['steps'])}"
    return f"As good within noise on select, {ahead(found)} on holdout: {', '.join(found['steps'])}"
