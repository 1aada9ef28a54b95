"""The HTML document around the sections: style, scripts, and the policy by which a browser loads nothing else."""

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path

from evomerge.report.figure import script_data
from evomerge.report.theme import DARK, LIGHT
from evomerge.report.vega import library_script


def page(title: str, body: str, footer: str) -> str:
    """A self-contained document. Its two scripts are named by their hashes, so that no other script runs."""
    style, scripts = _file("report.css"), (library_script(), _file("report.js"))
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    library, drawing = (f"<script>{script}</script>" for script in scripts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)} · evomerge</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
<footer>{escape(footer)}</footer>
</main>
<script type="application/json" id="themes">{script_data({"light": LIGHT, "dark": DARK})}</script>
{library}
{drawing}
</body>
</html>
"""


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
