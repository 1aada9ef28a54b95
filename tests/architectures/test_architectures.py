"""Every architecture that writes text merges as transformers loads it, or is refused in one line, as the page says."""

from pathlib import Path

import pytest
import transformers

from tests.architectures.configurations import ARCHITECTURES, LEFT_OUT
from tests.architectures.page import PAGE, line, lines
from tests.architectures.trials import tried

SHORT = (
    "llama, tied",
    "marian",
    "mixtral",
    "qwen2_vl",
    "t5, a head of its own",
)
of_the_page = pytest.mark.skipif(
    f"transformers {transformers.__version__} " not in PAGE.read_text(), reason="the page is of another transformers"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of configurations that nobody else has


def short_or_slow(name: str) -> object:
    return name if name in SHORT else pytest.param(name, marks=pytest.mark.slow)


@of_the_page
@pytest.mark.parametrize("name", [short_or_slow(name) for name in ARCHITECTURES])
def test_an_architecture_is_merged_and_scored_as_the_page_says(name: str, tmp_path: Path) -> None:
    assert line(name, tried(ARCHITECTURES[name], tmp_path)) == lines()[name]


@of_the_page
def test_the_page_lists_the_architectures_of_the_table() -> None:
    assert list(lines()) == list(ARCHITECTURES)
    assert all(f"{name} (" in PAGE.read_text() for name in LEFT_OUT)
