"""The winner's coefficients as heat maps: layer × expert, one for each gene and component, on a scale around 0."""

from collections.abc import Sequence

import altair

from evomerge.report.coefficients import OUTSIDE, Block
from evomerge.report.figure import Figure
from evomerge.report.html_elements import Grid
from evomerge.report.marks import Row, base, layered, names_axis, tooltips

CELL = 28  # pixels
MOST_NUMBERS = 6  # columns whose cells show their number; narrower cells show a minus sign where it is negative
HALF, STRONG, STRONG_NEGATIVE = 0.5, 0.72, 0.88  # of the largest value: from where a text needs another colour
TIPS = {"model": "model", "layers": "layers", "value": "coefficient*"}
KEYS = (("winner", "■", "positive"), ("baseline", "■", "negative, with a minus sign"), ("muted", "□", "near 0"))


def gene_figures(gene: str, blocks: Sequence[Block], name: str) -> list[Figure]:
    """A heat map for each component of a gene; all have the same scale."""
    values = [value for block in blocks for row in block.rows.values() for value in row if value is not None]
    largest = max(map(abs, values), default=0.0) or 1.0
    return [block_figure(gene, block, largest, f"{name}-{place}") for place, block in enumerate(blocks)]


def block_figure(gene: str, block: Block, largest: float, name: str) -> Figure:
    """A row for each model, and a column for each run of layers in which all are constant, as wide as its layers."""
    rows: list[Row] = []
    edges = [sum(block.widths[:i]) for i in range(len(block.widths) + 1)]
    if block.component == OUTSIDE:
        edges = list(range(len(block.columns) + 1))
    for model, values in block.rows.items():
        for place, value in enumerate(values):
            if value is not None:
                first, last = edges[place], edges[place + 1]
                cell: Row = {
                    "model": model,
                    "layers": block.columns[place],
                    "value": value,
                    "text": _text(value, block),
                }
                ends = {"start": first, "end": last, "middle": (first + last) / 2}
                rows.append({**cell, **ends, "style": _text_style(value / largest)})
    cells = [(model, *("–" if v is None else f"{v:+.4f}" for v in values)) for model, values in block.rows.items()]
    shown = [float(row["value"] or 0.0) for row in rows]
    below = sum(value < 0 for value in shown)
    description = (
        f"{gene} of {len(block.rows)} models over {edges[-1]} {'tensors' if block.component == OUTSIDE else 'layers'}, "
        f"from {min(shown):+.3f} to {max(shown):+.3f}; {below} of {len(shown)} values are negative."
    )
    chart = _chart(block, rows, largest, edges)
    return Figure(name, f"{gene} · {block.component}", description, chart, Grid(("model", *block.columns), cells))


def _text(value: float, block: Block) -> str:
    if len(block.columns) <= MOST_NUMBERS:
        return f"{value:+.2f}"
    return "−" if value < 0 else ""


def _text_style(share: float) -> str:
    """The style of the text on a cell, with a contrast of 3.5 at least. Orange is brighter than blue."""
    if abs(share) >= (STRONG if share > 0 else STRONG_NEGATIVE):
        return "on"
    return "middle" if abs(share) >= HALF else "ink"


def _chart(block: Block, rows: Sequence[Row], largest: float, edges: Sequence[int]) -> altair.LayerChart:
    y, outside = names_axis("model", list(block.rows)), block.component == OUTSIDE
    axis = altair.Axis(grid=False, tickMinStep=1, format="d")
    start = altair.X(field="start", type="quantitative", title="layer", axis=axis, scale=_layer_scale(edges))
    middle = altair.X(field="middle", type="quantitative", title="layer", axis=axis, scale=_layer_scale(edges))
    if outside:  # its columns are kinds of tensors
        order, names = list(block.columns), altair.Axis(labelAngle=0, ticks=False, domain=False)
        start = middle = altair.X(field="layers", type="nominal", title=None, sort=order, axis=names)
    colours = altair.Scale(domain=[-largest, largest], domainMid=0, interpolate="rgb")  # straight through grey
    colour = altair.Color(field="value", type="quantitative", scale=colours, legend=None)
    cells = base(rows).encode(x=start, y=y, color=colour, tooltip=tooltips(TIPS))
    if outside:
        layers = [cells.mark_rect(cornerRadius=2)]
    else:
        layers = [cells.encode(x2=altair.X2(field="end")).mark_rect(x2Offset=-2, cornerRadius=2)]
    for style in ("on", "middle", "ink"):
        part = base(row for row in rows if row["style"] == style)
        text = part.mark_text(style=style, fontSize=11 if len(block.columns) <= MOST_NUMBERS else 9)
        layers.append(text.encode(x=middle, y=y, text=altair.Text(field="text", type="nominal")))
    return layered(layers, CELL * len(block.rows))


def _layer_scale(edges: Sequence[int]) -> altair.Scale:
    return altair.Scale(domain=[0, edges[-1]], nice=False)
