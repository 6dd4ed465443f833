"""Formulas as MathML, made while the pages are built.

Every browser of today lays MathML out by itself, so a page needs no script for its mathematics, asks nothing of the
network, shows its formulas at first paint, and reads them to those who listen. latex2mathml does the translation; what
it lacks, mostly the space around operators, is added here. A command that it does not know is a
warning, and the book is built with warnings as errors.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
CAPITAL_GREEK = re.compile("[\u0391-\u03a9]")
OPENING = set("=≈<>≤≥∈←→([{|+−×/,")  # a minus sign after one of these belongs to the number behind it
IN_TABLE = re.compile(r"\$([^$\n]+)\$")
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
FUNCTIONS = ("exp", "ln", "log", "max", "min")
LIMITS = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}


class FormulaError(ValueError):
    """A formula cannot become MathML. The message names the part that is the reason."""


def _parents(tree: Element) -> Iterator[tuple[Element, list[Element]]]:
    for parent in tree.iter():
        yield parent, list(parent)


def _is(element: Element, tag: str, text: str | None = None) -> bool:
    return element.tag == tag and (text is None or element.text == text)


def _grouped_commas(tree: Element) -> None:
    """Read 16{,}384 as one number, not as a list of two."""
    for parent, children in _parents(tree):
        for left, comma, right in zip(children, children[1:], children[2:], strict=False):
            inner = list(comma)
            if _is(left, "mn") and _is(right, "mn") and _is(comma, "mrow") and len(inner) == 1 and inner[0].text == ",":
                right.text = f"{left.text},{right.text}"
                parent.remove(left)
                parent.remove(comma)


def _raised_brackets(tree: Element) -> None:
    """Raise a whole bracket to its power, and not the bracket's right half alone: only so do its halves match."""
    for parent, children in _parents(tree):
        for raised in children:
            if raised.tag not in LIMITS or not _is(raised[0], "mo", ")"):
                continue
            depth, inside = 1, [raised[0]]
            for child in reversed(list(parent)[: list(parent).index(raised)]):
                inside.insert(0, child)
                depth += _is(child, "mo", ")") - _is(child, "mo", "(")
                if not depth:
                    break
            else:
                continue  # it opens elsewhere
            bracket = Element("mrow")
            bracket.extend(inside)
            for child in inside[:-1]:
                parent.remove(child)
            raised[0] = bracket


def _roomy_roots(tree: Element) -> None:
    """Give what stands under a root the height of a line, so that the bar keeps its distance from small letters."""
    for root in tree.iter("msqrt"):
        root.insert(0, Element("mspace", width="0", height="0.78em", depth="0.1em"))


def _spaced(tree: Element) -> None:
    """Give operators and named functions the space that a reader of TeX expects."""
    for parent, children in _parents(tree):
        for child, behind in pairwise(children):
            if child.tag == "mi" and child.text in FUNCTIONS and behind.tag in ("mi", "mn"):
                parent.insert(list(parent).index(behind), Element("mspace", width="0.17em"))
        inside_bars = False
        before: Element | None = None
        for child in children:
            if _is(child, "mo", "|") and child.get("fence") is None:
                inside_bars = not inside_bars
                child.set("form", "prefix" if inside_bars else "postfix")
                child.set("lspace", "0")
                child.set("rspace", "0")
            elif _is(child, "mo", "/"):
                child.set("lspace", "0.05em")
                child.set("rspace", "0.05em")
            elif child.tag == "mo" and child.text in ("−", "+"):
                starts = before is None or before.tag == "mspace"
                if starts or (before is not None and before.tag == "mo" and before.text in OPENING):
                    child.set("form", "prefix")
            if child.tag != "mspace" or before is None:
                before = child


def mathml(formula: str, *, block: bool = False) -> str:
    """Return a formula in TeX's notation as a ``<math>`` element, with the formula in its ``alttext``.

    Raises:
        FormulaError: it holds a command that is unknown, or its braces do not match.
    """
    tex = " ".join(formula.split())
    try:
        text = convert(tex, display="block" if block else "inline")
    except Exception as error:  # latex2mathml has a dozen, with no class in common
        raise FormulaError(f"{type(error).__name__} {error}".strip()) from error
    tree = ElementTree.fromstring(text.replace(f' xmlns="{NAMESPACE}"', ""))
    for element in tree.iter():
        if element.tag == "mo" and element.text == "∂":
            element.tag = "mi"
        if element.tag == "mi" and CAPITAL_GREEK.fullmatch(element.text or ""):
            element.set("mathvariant", "normal")
        if element.tag in LIMITS and _is(element[0], "mo", "∑"):
            element.tag = LIMITS[element.tag]
        if unknown := re.search(r"\\\w*|[$&#]", element.text or ""):
            raise FormulaError(f"{unknown.group()} is not known")
        if len(element) != PARTS.get(element.tag, len(element)):
            raise FormulaError(f"a part of a fraction, a root, an index or a power is missing ({element.tag})")
    _grouped_commas(tree)
    _raised_brackets(tree)
    _roomy_roots(tree)
    _spaced(tree)
    tree.set("alttext", tex)
    return ElementTree.tostring(tree, encoding="unicode")


def _translated(node: nodes.Element, *, block: bool) -> str:
    try:
        return mathml(node.astext(), block=block)
    except FormulaError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{nodes.unescape(node.astext())}</code>"


def _in_table(found: re.Match[str]) -> str:
    return mathml(html.unescape(found[1]))


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(f'<span class="math notranslate">{_translated(node, block=False)}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    # wide formulas scroll in a box of their own, which a keyboard can reach
    self.body.append(f'<div class="math notranslate" tabindex="0">{_translated(node, block=True)}</div>')
    raise nodes.SkipNode


class FormulasInTables(SphinxPostTransform):
    """Translates the formulas in tables among the outputs of cells, which a notebook shows typeset."""

    default_priority = 900

    def run(self, **kwargs: Any) -> None:
        for node in self.document.findall(nodes.raw):
            table = node.astext()
            if node["format"] == "html" and 'class="dataframe"' in table and "$" in table:
                text = re.sub(r"(?<=>)[^<]+", lambda between: IN_TABLE.sub(_in_table, between[0]), table)
                node.children = [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(FormulasInTables)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
