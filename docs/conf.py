"""The documentation site: Sphinx reads the Markdown of the whole repository, so links work as in a repository browser.

`make docs` builds it; every broken internal link is an error.
"""

from evomerge.version import __version__

project = "evomerge"
author = "the evomerge authors"
copyright = "the evomerge authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "experiments/**README.md", "tests/README.md", "design/**.md", "*.md"]
# Types of other libraries have no page here; what MyST cannot resolve is a warning without nitpicky, too.

html_theme = "furo"
html_title = "evomerge"
html_show_sourcelink = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
default_role = "literal"  # docstrings write `code` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
