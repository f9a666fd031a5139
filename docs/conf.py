"""Settings of Sphinx: pages in Markdown, read by MyST, and the API from docstrings."""

import re

import jaxlora
import jaxlora.simulation
import jaxlora.sweeps

project = "jaxlora"
author = copyright = "The jaxlora contributors"
release = version = jaxlora.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "jaxlora"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
mathjax_path = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"

add_module_names = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
maximum_signature_line_length = 80

PUBLIC = {
    name: f"{module.__name__}.{name}"
    for module in (jaxlora.sweeps, jaxlora.simulation, jaxlora)
    for name in module.__all__
}


def _as_literal(code: re.Match) -> str:
    """A `word` of a docstring as a link where it is a public name, literally elsewhere."""
    word = code[1]
    return f":py:obj:`{word} <{PUBLIC[word]}>`" if word in PUBLIC else f"``{word}``"


def _as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """In docstrings only `code` and lists are markup: |w*| and σ_ are what they look like."""
    parts = re.split(r"(`[^`]+`)", "\n".join(lines))
    parts[::2] = (re.sub(r"([\\*|_])", r"\\\1", words) for words in parts[::2])
    for i in range(1, len(parts), 2):
        parts[i] = re.sub(r"`([^`]+)`", _as_literal, parts[i])
        # Markup ends only before a space or punctuation, which "\ " stands for.
        parts[i] += "\\ " * bool(re.match(r"[\w\[({]", parts[i + 1]))
    lines[:] = "".join(parts).split("\n")


def _without_lambdas(app, what, name, obj, options, signature, returns):
    """A default that does nothing has no value worth reading."""
    return signature and re.sub(r"= ?lambda [\w, ]+: None", "= ...", signature), returns


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _as_restructured_text)
    app.connect("autodoc-process-signature", _without_lambdas)
