"""The site can be built, and no link between its pages is broken."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the site needs the extra `docs`")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        "docs",
        "-b",
        "html",
        ".",
        str(tmp_path),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "evomerge.search" in (tmp_path / "docs/reference/python.html").read_text()
    for page in ("docs/index", "README", "docs/tutorials/quickstart", "experiments/quickstart/README"):
        assert (tmp_path / f"{page}.html").is_file()
