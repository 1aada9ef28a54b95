"""How the score depends on each coefficient: the mean coefficient of every candidate against its score."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from evomerge.report.coefficients import OUTSIDE, coefficient_blocks, constant_settings
from evomerge.report.figure import NARROW, Figure, figure_html, legend_html
from evomerge.report.html_elements import Grid, section
from evomerge.report.marks import Row, base, layered, tooltips, x_axis, y_axis
from evomerge.report.record import Record, is_missing
from evomerge.report.search_scores import CandidateScore
from evomerge.report.table import format_score

MAX_CHARTS = 8
MAX_CANDIDATES = 400  # that are read, in equal steps of all
LEAST = 8  # candidates
HEIGHT = 170
KEYS = (("expert", "●", "candidate"), ("winner", "◆", "winner"))
NOTE = (
    "Each candidate's mean coefficient over all layers, against its score on search. The charts with the strongest "
    "rank correlation come first. Candidates cluster where the optimizer searched, so this is no causal effect."
)
HEADS = ("candidate", "mean coefficient", "score")
Sample = tuple[CandidateScore, float]


def sensitivity_section(record: Record) -> str:
    """The charts of the coefficients with the strongest rank correlation; empty for a few candidates."""
    figures = sensitivity_figures(record)
    if not figures:
        return ""
    return section(
        "Sensitivity", NOTE, f'<div class="multiples">{"".join(map(figure_html, figures))}</div>{legend_html(KEYS)}'
    )


def sensitivity_figures(record: Record) -> list[Figure]:
    """A chart for each coefficient that varies, sorted by the size of its rank correlation with the score."""
    samples: dict[str, list[Sample]] = {}
    for candidate in _candidates(record):
        for name, value in mean_coefficients(record, candidate.key).items():
            samples.setdefault(name, []).append((candidate, value))
    varied = {n: found for n, found in samples.items() if len(found) >= LEAST and len({v for _, v in found}) > 1}
    order = sorted(varied, key=lambda name: -abs(_correlation(varied[name])))[:MAX_CHARTS]
    return [_figure(record, name, varied[name], f"sensitivity-{place}") for place, name in enumerate(order)]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, with mean ranks for ties; 0 where one of the two is constant."""
    ranks = np.array([rankdata(first), rankdata(second)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1)).prod()
    return float((centred[0] * centred[1]).sum() / norms) if norms else 0.0


def mean_coefficients(record: Record, key: str) -> dict[str, float]:
    """Gene and model → the mean of the gene over the layers of all components; gene → its value for the whole merge."""
    layered: dict[str, list[tuple[float, int]]] = {}
    recipe = record.recipe_of(key)
    for block in coefficient_blocks(recipe, record.result.get("layers"), record.config):
        for model, values in block.rows.items() if block.component != OUTSIDE else ():
            pairs = [(v, width) for v, width in zip(values, block.widths, strict=True) if v is not None]
            layered.setdefault(f"{block.gene} of {model}", []).extend(pairs)
    whole = {name: value for name, value in constant_settings(recipe).items() if isinstance(value, float)}
    means = {name: sum(v * w for v, w in pairs) / sum(w for _, w in pairs) for name, pairs in layered.items() if pairs}
    return means | whole


def _candidates(record: Record) -> list[CandidateScore]:
    """The complete candidates, or an equal sample of them and the winner."""
    known = [c for c in record.candidates if c.complete and not is_missing(c.score) and c.key in record.recipes]
    step, winner = -(-len(known) // MAX_CANDIDATES) or 1, record.result["winner"]["key"]
    return [c for place, c in enumerate(known) if place % step == 0 or c.key == winner]


def _correlation(samples: Sequence[Sample]) -> float:
    return rank_correlation([value for _, value in samples], [candidate.score for candidate, _ in samples])


def _figure(record: Record, name: str, samples: Sequence[Sample], place: str) -> Figure:
    winner, correlation = record.result["winner"]["key"], _correlation(samples)
    rows: list[Row] = [{"candidate": c.number, "value": value, "score": c.score} for c, value in samples]
    won = [c.key == winner for c, _ in samples]
    x, y = x_axis("value", f"mean {name}"), y_axis("score", "score")
    tips = tooltips({"candidate": "candidate", "value": f"mean {name}*", "score": "score*"})
    others = base(row for row, best in zip(rows, won, strict=True) if not best)
    points = others.mark_point(style="expert", filled=True, size=22, opacity=0.8)
    leader = base(row for row, best in zip(rows, won, strict=True) if best)
    diamond = leader.mark_point(style="winner", shape="diamond", filled=True, size=150)
    chart = layered([mark.encode(x=x, y=y, tooltip=tips) for mark in (points, diamond)], HEIGHT)
    grid = Grid(HEADS, [(str(c.number), f"{value:+.4f}", format_score(c.score)) for c, value in samples])
    description = f"Mean {name} against the score of {len(rows)} candidates; rank correlation {correlation:+.2f}."
    return Figure(place, f"{name}: rank correlation {correlation:+.2f}", description, chart, grid, width=NARROW)
