"""Two objectives against one another, as inline SVG."""

from evomerge.report.record import Point, Record, missing
from evomerge.report.svg import dot, line, scale, span, svg, text, ticks
from evomerge.report.table import number

LEFT, TOP, SIDE = 46.0, 12.0, 250.0  # of the plot, in pixels


def front_chart(record: Record, across: str, up: str, name: str) -> str:
    """A dot for each candidate and baseline; the members of the front and the winner stand out."""
    members = {row["key"] for row in record.result["front"]["members"]}
    points = [point for point in record.points if point.whole and not missing(point.score)]
    standing = [fitness.values for fitness in record.standing.values()]
    values = [*(point.fitness.values for point in points), *standing]
    x_span, y_span = (span([value[task] for value in values]) for task in (across, up))
    x, y = scale(*x_span, LEFT, LEFT + SIDE), scale(*y_span, TOP + SIDE, TOP)
    parts = []
    for value in ticks(*x_span):
        parts.append(text(x(value), TOP + SIDE + 14, f"{value:g}", "tick", "middle"))
    for value in ticks(*y_span):
        parts += [
            line(LEFT, y(value), LEFT + SIDE, y(value), "grid"),
            text(LEFT - 8, y(value), f"{value:g}", "tick", "end"),
        ]
    parts.append(text(LEFT + SIDE / 2, TOP + SIDE + 32, across, "tick", "middle"))
    for label, fitness in record.standing.items():
        tip = f"{label}: {number(fitness.values[across])}, {number(fitness.values[up])}"
        parts.append(dot(x(fitness.values[across]), y(fitness.values[up]), 4, "rival", tip))
    winner = record.result["winner"]["key"]
    for point in sorted(points, key=lambda point: (point.key == winner, point.key in members)):  # those on top
        kind = "winner" if point.key == winner else "member" if point.key in members else "candidate"
        radius = 6 if kind == "winner" else 4.5 if kind == "member" else 2.6
        parts.append(
            dot(x(point.fitness.values[across]), y(point.fitness.values[up]), radius, kind, _tip(point, across, up))
        )
    description = f"{len(points)} candidates, {across} to the right and {up} upwards; {len(members)} form the front."
    return svg(name, f"{across} against {up}", description, (LEFT + SIDE + 16, TOP + SIDE + 44), parts)


def _tip(point: Point, across: str, up: str) -> str:
    values = point.fitness.values
    breach = f", breaks a floor by {point.fitness.violation:.4f}" if point.fitness.violation else ""
    return f"candidate {point.number}: {number(values[across])}, {number(values[up])}{breach}"
