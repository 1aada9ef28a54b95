"""A scatter plot of two objectives as inline SVG."""

from evomerge.report.record import Record, is_missing
from evomerge.report.search_scores import CandidateScore
from evomerge.report.svg import Scale, dot, line, linear_scale, padded_range, svg_figure, text, ticks
from evomerge.report.table import format_score

LEFT, TOP, SIDE = 46.0, 12.0, 250.0  # of the plot, in pixels


def draw_front(record: Record, x_task: str, y_task: str, name: str) -> str:
    """A dot for each candidate and baseline; the members of the front and the winner are highlighted."""
    members = {row["key"] for row in record.result["front"]["members"]}
    candidates = [c for c in record.candidates if c.complete and not is_missing(c.score)]
    values = [c.fitness.values for c in candidates]
    values += [fitness.values for fitness in record.baseline_fitness.values()]
    x_range, y_range = (padded_range([value[task] for value in values]) for task in (x_task, y_task))
    x, y = linear_scale(*x_range, LEFT, LEFT + SIDE), linear_scale(*y_range, TOP + SIDE, TOP)
    parts = [*_axes(x, y, x_range, y_range), text(LEFT + SIDE / 2, TOP + SIDE + 32, x_task, "tick", "middle")]
    for label, fitness in record.baseline_fitness.items():
        tip = f"{label}: {format_score(fitness.values[x_task])}, {format_score(fitness.values[y_task])}"
        parts.append(dot(x(fitness.values[x_task]), y(fitness.values[y_task]), 4, "baseline", tip))
    winner = record.result["winner"]["key"]
    for candidate in sorted(candidates, key=lambda c: (c.key == winner, c.key in members)):  # the last are on top
        kind = "winner" if candidate.key == winner else "member" if candidate.key in members else "candidate"
        radius = 6 if kind == "winner" else 4.5 if kind == "member" else 2.6
        place = candidate.fitness.values
        parts.append(dot(x(place[x_task]), y(place[y_task]), radius, kind, _tip(candidate, x_task, y_task)))
    description = (
        f"{len(candidates)} candidates, {x_task} to the right and {y_task} upwards; {len(members)} form the front."
    )
    return svg_figure(name, f"{x_task} against {y_task}", description, (LEFT + SIDE + 16, TOP + SIDE + 44), parts)


def _axes(x: Scale, y: Scale, x_range: tuple[float, float], y_range: tuple[float, float]) -> list[str]:
    parts = [text(x(value), TOP + SIDE + 14, f"{value:g}", "tick", "middle") for value in ticks(*x_range)]
    for value in ticks(*y_range):
        parts += [
            line(LEFT, y(value), LEFT + SIDE, y(value), "grid"),
            text(LEFT - 8, y(value), f"{value:g}", "tick", "end"),
        ]
    return parts


def _tip(candidate: CandidateScore, x_task: str, y_task: str) -> str:
    values, violation = candidate.fitness.values, candidate.fitness.violation
    floor = f", breaks a floor by {violation:.4f}" if violation else ""
    return f"candidate {candidate.number}: {format_score(values[x_task])}, {format_score(values[y_task])}{floor}"
