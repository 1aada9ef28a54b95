"""The result as the terminal's tables and as sentences: the claim and the notes that belong to it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from evomerge.scoring import ANSWER_PROBLEMS, SLICES
from evomerge.searching import FLOOR_TOLERANCE

Document = Mapping[str, Any]  # the contents of result.json
STANDING = {  # kind of a baseline → its name in a sentence
    "base": "the base",
    "expert": "the expert '{}'",
    "uniform": "the uniform average",
    "default": "the textbook default of the method",
    "baseline": "the baseline '{}'",
}
VERDICTS = {
    "better": "better than the best baseline",
    "tie": "a tie with the best baseline",
    "worse": "worse than the best baseline",
}


def result_table(result: Document) -> Table:
    """The scores of baselines, winner and alternative recipes on every slice, on each task and length of holdout."""
    tasks, lengths = list(result["rows"][-1]["tasks"]), list(result["rows"][-1].get("lengths", ()))
    table = Table()
    table.add_column("model")
    for name in SLICES:
        table.add_column(name, justify="right")
    for task in (*tasks, *lengths):
        table.add_column(task, justify="right", style="dim")
    for row in (*result["rows"], *alternative_rows(result)):
        cells = [*(row["scores"][name] for name in SLICES), *(row["tasks"].get(task) for task in tasks)]
        counts = [format_length(row.get("lengths", {}).get(name)) for name in lengths]
        table.add_row(
            row_name(row), *map(format_score, cells), *counts, style="bold" if row["role"] == "winner" else ""
        )
    return table


def comparison_table(result: Document) -> Table:
    """The comparison of the winner with each baseline on holdout; the claim and its notes are the caption."""
    caption = "\n".join((claim(result), *notes(result)))
    table = Table(caption=caption, caption_justify="left", caption_style="")
    table.add_column("against")
    for head in ("winner ahead by", "p", "corrected", ""):
        table.add_column(head, justify="right")
    for comparison in result["comparisons"]:
        p_values = (format_p(comparison["p"]), format_p(comparison["corrected"]))
        table.add_row(comparison["label"], format_difference(comparison), *p_values, comparison["verdict"])
    return table


def alternative_rows(result: Document) -> list[Mapping[str, Any]]:
    """The rows of the recipes besides the winner's: the simplified one and the members of the front."""
    simpler = [result["simpler"]["row"]] if result["simpler"] and result["simpler"]["row"] else []
    return simpler + (result["front"]["members"] if result["front"] else [])


def claim(result: Document) -> str:
    """What the run shows about the winner and the best baseline, in one sentence."""
    uses = result["counts"]["holdout_looks"]
    reuse = f"; the holdout was used {uses} times, and a choice made after the first may overfit it" * (uses > 1)
    nothing = f"Nothing better was found: the winner is {itself}" if (itself := standing_row(result)) else ""
    if nothing and result["best_baseline"] in (result["rows"][-1]["label"], *_twins(result)):
        return f"{nothing}{reuse}"
    comparison = next(c for c in result["comparisons"] if c["label"] == result["best_baseline"])
    baseline = next(row for row in result["rows"] if row["label"] == comparison["label"])
    keeps_floors = bool(_bounds(result, baseline)) and not any(bound.broken for bound in _bounds(result, baseline))
    floors = " that keeps the floors" * keeps_floors
    return (
        f"{nothing}{'. ' * bool(nothing)}"
        f"On holdout the winner is {VERDICTS[result['verdict']]}{floors} ({comparison['label']}): "
        f"{format_difference(comparison)}, {comparison['interval']['level']:.0%} interval, "
        f"p {format_p(comparison['corrected'])} "
        f"({comparison['test']}, corrected for {len(result['comparisons'])} baselines){reuse}"
    )


def standing_row(result: Document) -> str | None:
    """The baseline that the winner is, in words such as `the expert 'math' itself`; None for a new merge.

    Results that an earlier version wrote have no kinds of baselines.
    """
    winner = result["rows"][-1]
    same = [{"label": row["label"], "kind": "baseline"} for row in result["rows"][:-1] if row["key"] == winner["key"]]
    twins = result.get("winner_is", same)
    return f"{STANDING[twins[0]['kind']].format(twins[0]['label'])} itself" if twins else None


def _twins(result: Document) -> list[str]:
    return [twin["label"] for twin in result.get("winner_is", ())]


def notes(result: Document) -> Iterator[str]:
    """The sentences that belong to the claim: ties, gap, answers, floors, sensitivity, simpler recipe, front."""
    yield from result.get("task_warnings", ())
    yield from _shortened(result)
    yield from _ties(result)
    yield from _gap(result["gap"])
    yield from _answers(result)
    yield from _floors(_bounds(result, result["rows"][-1]))
    if result["sensitivity"]:
        yield _sensitivity(result["sensitivity"])
    if result["simpler"]:
        yield _simplification(result["simpler"])
    if trial := result.get("routers"):
        yield _router_trial(trial)
    if result["front"]:
        front, count = result["front"], len(result["front"]["members"])
        members = f"{count} member{'s' * (count != 1)}"
        yield f"The front has {members}; its normalised hypervolume on holdout is {front['share_of_box']:.0%}"


def _shortened(result: Document) -> Iterator[str]:
    """The slices that ended early, and the steps that were left out, because the time was short."""
    for name, used in result.get("shortened", {}).items():
        if isinstance(used, str):
            yield f"Left out for lack of time: {name}"
        else:
            yield f"For lack of time only {used['items']} of {used['of']} items of {name} were used"


def format_shares(answers: Mapping[str, int]) -> str:
    """The shares of truncated, empty and unparsable answers."""
    return ", ".join(f"{answers[kind] / answers['answers']:.0%} {kind}" for kind in ANSWER_PROBLEMS)


def format_difference(comparison: Mapping[str, Any]) -> str:
    """A difference of scores with its confidence interval."""
    interval = comparison["interval"]
    difference = round(comparison["difference"], 4) + 0.0  # no -0.0000
    return f"{difference:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"


def format_p(p: float) -> str:
    """A p-value as a table cell."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def format_score(value: float | None) -> str:
    """A score as a table cell; `failed` if there is none."""
    return "failed" if value is None or math.isnan(value) else f"{value:.4f}"


def format_length(value: float | None) -> str:
    """A mean number of tokens as a table cell; `failed` if there is none."""
    return "failed" if value is None else f"{value:.1f}"


def row_name(row: Mapping[str, Any]) -> str:
    """The name of a row in a table; that of the winner includes the label of the baseline that has the same recipe."""
    label = str(row["label"])
    if row["role"] == "member":
        return f"front: {label}"
    return label if row["role"] != "winner" or label == "winner" else f"winner (= {label})"


def _ties(result: Document) -> Iterator[str]:
    best = result["best_baseline"]
    ties = [c["label"] for c in result["comparisons"] if c["verdict"] == "tie" and c["label"] != best]
    if ties:
        yield f"A tie with {', '.join(ties)} too: these differences may be chance"


def _gap(gap: Mapping[str, float | None]) -> Iterator[str]:
    loss, baseline_loss = gap["winner"], gap["baselines"]
    if loss is None:
        return
    text = f"From search to holdout the winner's score changes by {round(-loss, 4) + 0.0:+.4f}"
    if baseline_loss is not None:
        text += f"; the mean score of the baselines, which were not selected, changes by {-baseline_loss:+.4f}"
    yield text


def _answers(result: Document) -> Iterator[str]:
    """The answer counts of winner and best baseline; a warning if truncation may explain why the winner is better."""
    winner = result["rows"][-1]
    if not winner.get("answers"):
        return
    rows = [row for row in result["rows"][:-1] if row["label"] == result["best_baseline"] and row.get("answers")]
    shares = "; ".join(f"{row_name(row)} {format_shares(row['answers'])}" for row in (winner, *rows))
    yield f"Of {winner['answers']['answers']} answers generated on holdout: {shares}"
    if truncated := result.get("truncated_more"):
        yield (
            f"Warning: {', '.join(truncated)} reached the token limit significantly more often than the winner, which "
            f"may be better only because its answers are shorter; raise max_gen_toks to find out"
        )


@dataclass(frozen=True)
class _Bound:
    """A floor of a task or a bound of a length, with the value of one row in words."""

    words: str
    broken: bool


def _bounds(result: Document, row: Mapping[str, Any]) -> list[_Bound]:
    """The floors and bounds of the objective, as one row keeps them on holdout."""
    found = []
    for task, level in result["floors"].items():
        value = row["tasks"][task]
        words = f"{task} {format_score(value)} of {format_score(level)}"
        found.append(_Bound(words, value < level - FLOOR_TOLERANCE))
    for name, level in result.get("ceilings", {}).items():
        value = row["lengths"][name]
        words = f"{name} {format_length(value)} of at most {format_length(level)}"
        found.append(_Bound(words, value > level + FLOOR_TOLERANCE))
    return found


def _floors(bounds: Sequence[_Bound]) -> Iterator[str]:
    for verb, broken in (("keeps", False), ("breaks", True)):
        words = [bound.words for bound in bounds if bound.broken == broken]
        if words:
            yield f"On holdout the winner {verb} the floor{'s' * (len(words) > 1)}: {', '.join(words)}"


def _sensitivity(sensitivity: Mapping[str, Any]) -> str:
    largest = max(abs(sensitivity["worst"]), abs(sensitivity["best"]))
    shape = "flat" if sensitivity["flat"] else "not flat"
    return (
        f"The optimum is {shape}: {sensitivity['points']} points at radius {sensitivity['radius']:g} are within "
        f"±{largest:.4f} of the winner on select; their mean difference is {format_difference(sensitivity)}"
    )


def _router_trial(trial: Mapping[str, Any]) -> str:
    if trial["after"] is None:
        return "The winner with calibrated routers could not be scored"
    kept = "kept" if trial["kept"] else "not kept"
    return f"Calibrated routers: {trial['after']:.3f} on select, {trial['before']:.3f} without; they are {kept}"


def _simplification(simpler: Mapping[str, Any]) -> str:
    if not simpler["steps"]:
        return f"None of {simpler['tried']} simplifications keeps the score on select"
    steps = ", ".join(simpler["steps"])
    if not simpler["row"]:
        return f"A simpler recipe could not be scored on holdout: {steps}"
    return f"A simpler recipe is as good within noise on select, {format_difference(simpler)} on holdout: {steps}"
