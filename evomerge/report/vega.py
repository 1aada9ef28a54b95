"""The charting library: Vega-Lite specifications become SVG, PDF, and the script that draws them in a browser."""

from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any

import vl_convert

from evomerge.atomic import write_atomically
from evomerge.errors import RunError
from evomerge.paths import cache_folder
from evomerge.report.theme import LIGHT

Spec = dict[str, Any]
# A reader's font may be wider than the one that the still picture is laid out with.
STILL = {**LIGHT, "padding": {"left": 18, "right": 8, "top": 5, "bottom": 5}}


def to_svg(spec: Spec, width: int) -> str:
    """The chart as light SVG with a plot of `width` pixels."""
    return vl_convert.vegalite_to_svg({**spec, "width": width}, vl_version=_version(), config=STILL)


def to_pdf(spec: Spec, width: int) -> bytes:
    """The chart as a light PDF page of its own size, with text as text."""
    return vl_convert.vegalite_to_pdf({**spec, "width": width}, vl_version=_version(), config=STILL)


@cache
def library_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of 0.9 MB, which defines `vegaEmbed`.

    Bundling takes seconds, so the script is kept in the cache folder.
    """
    path = cache_folder() / f"vega-{version('vl-convert-python')}-{_version()}.js"
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version())
    with suppress(OSError, RunError):  # a cache that cannot be written costs seconds, not the report
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, script)
    return script


@cache
def _version() -> str:
    """The newest version of Vega-Lite that vl-convert contains, such as 6.4."""
    return max(vl_convert.get_vegalite_versions(), key=lambda text: [int(part) for part in text.split(".")])
