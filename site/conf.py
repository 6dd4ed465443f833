"""Configuration of Sphinx for the book's web pages. `make html` and `make book` use it, through site/pages.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "extensions"))
sys.path.insert(0, str(ROOT))

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

# The one setting behind "open in Binder": where the repository is. Without it the button is absent.
REPOSITORY = os.environ.get("REPOSITORY") or CITATION.get("repository-code", "")

project = "Pruning filters with the Taylor criterion"
author = ", ".join(person["name"] for person in CITATION["authors"])
release = str(CITATION["version"])
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.githubpages",  # from a branch, GitHub would leave out _static
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "accessible",
    "command_help",
    "docstrings",
    "folded",
    "gate_board",
    "mathml",
]
exclude_patterns = ["_*"]
nitpicky = False

# Notebooks are shown with their stored outputs; site/execute.py executes them.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, object] = {}  # the default loads scripts from elsewhere
nb_render_text_lexer = "none"
nb_merge_streams = True
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Formulas become MathML while the pages are built: no script, no request, and a font of the site's own.
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
toc_object_entries_show_parents = "hide"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # what torch says of a method that we replace is not about ours
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_selector = "div.highlight:not(.no-copy) pre"
copybutton_exclude = ".linenos, .gp, .go"

templates_path = [str(HERE / "_templates")]
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(HERE / "_static")]
html_favicon = str(HERE / "_static" / "gate.svg")
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = True
html_show_sourcelink = False
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}  # light or dark as the reader's system says, until the button is pressed
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "home_page_in_toc": False,
    "search_bar_text": "Search the book",
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY.rstrip("/"),
        "repository_branch": "main",
        "path_to_docs": "notebooks",
        "use_repository_button": True,
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
    }
