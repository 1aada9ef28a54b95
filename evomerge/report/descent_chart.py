"""The loss curve of a descent as inline SVG."""

import math
from collections.abc import Sequence

from evomerge.report.svg import dot, line, linear_scale, padded_range, svg_figure, text, ticks
from evomerge.report.table import format_score

LEFT, TOP, PLOT, HEIGHT = 46.0, 14.0, 576.0, 180.0  # in pixels
SMOOTHED = 0.1  # the share of the steps whose mean the line shows


def loss_curve(losses: Sequence[float]) -> str:
    """A dot for the loss of each step, and the mean of the last steps as a line."""
    low, high = padded_range(losses)
    x = linear_scale(1, max(2, len(losses)), LEFT, LEFT + PLOT)
    y = linear_scale(low, high, TOP + HEIGHT, TOP)
    parts = []
    for value in ticks(low, high):
        parts += [line(LEFT, y(value), LEFT + PLOT, y(value), "grid")]
        parts += [text(LEFT - 8, y(value), f"{value:g}", "tick", "end")]
    for value in ticks(1, max(2, len(losses)), 6):
        if value == int(value):
            parts.append(text(x(value), TOP + HEIGHT + 14, f"{value:g}", "tick", "middle"))
    parts.append(text(LEFT + PLOT / 2, TOP + HEIGHT + 34, "steps", "tick", "middle"))
    for step, loss in enumerate(losses, 1):
        parts.append(dot(x(step), y(loss), 2.2, "candidate dropped", f"step {step}: {format_score(loss)}"))
    means = running_means(losses)
    path = "L".join(f"{x(step):.1f} {y(mean):.1f}" for step, mean in enumerate(means, 1))
    parts.append(f'<path class="best" d="M{path}"/>')
    description = f"{len(losses)} steps; the loss goes from {format_score(losses[0])} to {format_score(means[-1])}."
    size = (LEFT + PLOT + 20, TOP + HEIGHT + 46)
    return svg_figure("descent", "Loss of each step of the descent", description, size, parts)


def running_means(losses: Sequence[float]) -> list[float]:
    """The mean of each loss and of those before it, as many as SMOOTHED of all."""
    width = max(1, math.ceil(SMOOTHED * len(losses)))
    windows = (losses[max(0, end - width) : end] for end in range(1, len(losses) + 1))
    return [math.fsum(window) / len(window) for window in windows]
