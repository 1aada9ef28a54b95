"""The figures of a run as SVG and PDF files for publications, drawn from the specifications of the HTML report."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from evomerge.errors import RunError, remedy_for
from evomerge.report.figure import Figure
from evomerge.report.front_charts import front_figures
from evomerge.report.holdout_charts import task_figures
from evomerge.report.html import coefficient_figures
from evomerge.report.record import Record, read_record
from evomerge.report.search_chart import descent_figure, search_figure
from evomerge.report.sensitivity_charts import sensitivity_figures
from evomerge.report.vega import to_pdf
from evomerge.run_files import refuse_misfits


def save_figures(folder: Path, out: Path) -> list[Path]:
    """Write every chart of a finished run's report as NAME.svg and NAME.pdf into `out` and return the paths.

    RunError if the run is not finished or `out` cannot be written.
    """
    record = read_record(folder)
    with refuse_misfits(folder):
        figures = list(run_figures(record))
    return [path for figure in figures for path in _save(figure, out)]


def run_figures(record: Record) -> Iterator[Figure]:
    """The charts of a run: search, descent, tasks, front, coefficients and sensitivity."""
    yield search_figure(record)
    if record.descent:
        yield descent_figure(record.descent)
    yield from task_figures(record)
    yield from front_figures(record)
    yield from chain.from_iterable(coefficient_figures(record).values())
    yield from sensitivity_figures(record)


def _save(figure: Figure, out: Path) -> list[Path]:
    paths = [out / f"{figure.name}.{kind}" for kind in ("svg", "pdf")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(figure.svg, encoding="utf-8")
        paths[1].write_bytes(to_pdf(figure.spec, figure.width))
    except OSError as error:
        raise RunError(f"{out}: {error.strerror or error}; {remedy_for(error)} or choose another folder") from error
    return paths
