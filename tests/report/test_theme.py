"""The colours of the charts keep enough contrast, in light and in dark."""

from collections.abc import Mapping

import pytest

from evomerge.report.coefficient_charts import _text_style
from evomerge.report.theme import DARK_COLOURS, DARK_RUNS, LIGHT_COLOURS, LIGHT_RUNS

THEMES = {"light": (LIGHT_COLOURS, LIGHT_RUNS), "dark": (DARK_COLOURS, DARK_RUNS)}


def channels(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_texts_and_marks_stand_out_from_the_page(theme: str) -> None:
    colours, runs = THEMES[theme]
    paper = channels(colours["paper"])
    assert all(contrast(channels(colours[name]), paper) >= 4.5 for name in ("ink", "muted", "winner", "baseline"))
    assert all(contrast(channels(c), paper) >= 3 for c in (*runs, colours["expert"], colours["member"]))


def cell(colours: Mapping[str, str], share: float) -> tuple[float, ...]:
    """The colour of a heat map's cell: from grey straight to blue or orange."""
    grey, full = channels(colours["rule"]), channels(colours["winner" if share > 0 else "baseline"])
    return tuple(a + abs(share) * (b - a) for a, b in zip(grey, full, strict=True))


@pytest.mark.parametrize("theme", THEMES)
def test_the_text_of_a_cell_stands_out_from_it(theme: str) -> None:
    colours, _ = THEMES[theme]
    shares = [i / 100 for i in range(-100, 101)]
    found = {share: contrast(channels(colours[_text_style(share)]), cell(colours, share)) for share in shares}
    assert min(found.values()) >= 3.5, sorted(found.items(), key=lambda pair: pair[1])[:5]
