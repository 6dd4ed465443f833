"""Every number in a chapter's text follows from something that runs: an output of it, its code, or what it claims.

A chapter's claims are the asserts of tests/claims/, which run behind its last cell. A number of the text is one of
these numbers as it stands, rounded to as many decimals, or in percent. Short numbers are easily found by chance, so
this catches prose that drifts away from exact figures, and little else.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from cnnprune_utils.book.chapters import chapters_in

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = [*chapters_in(ROOT / "notebooks"), ROOT / "notebooks" / "appendix_mlflow.ipynb"]

NUMBER = re.compile(r"(?<![\w.,])[−-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w]|[.,]\d)")
# What is no result of the chapter: code, formulas, addresses, tags, numbers of chapters, sections, exercises and years.
NOT_PROSE = re.compile(
    r"```.*?```|<code>.*?</code>|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]*>|^#+ \d+\.|^ {0,3}\d+\. "
    r"|\b(?:[Cc]hapters?|[Ss]ections?|[Ee]xercises?|seeds?|networks?|methods?)\s+\d+(?:\.\d+)?(?:(?:,| to| and)\s+\d+)*"
    r"|\((?:\d, )*\d\)|\b(?:19|20)\d\d\b|\b\d×\d\b|\b28 × 28\b|\bVGG-16\b|\b3 × 3\b",
    re.DOTALL | re.MULTILINE,
)


def value(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def numbers_of_code(source: str) -> Iterator[float]:
    """Yield the literals, and the numbers inside strings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER and "j" not in token.string:
            yield float(eval(token.string))  # a literal, as 1e-2 or 0x10 or 1_000
        elif token.type == tokenize.STRING:
            yield from (value(found) for found in NUMBER.findall(token.string))


def texts_of(cell: NotebookNode) -> Iterator[str]:
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield output.get("data", {}).get("text/plain", "")


def evidence(notebook: NotebookNode, claims: str) -> list[float]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [value(number) for cell in code for text in texts_of(cell) for number in NUMBER.findall(text)]
    shown += [value(number) for cell in code for text in texts_of(cell) for number in re.findall(r"\d+\.\d+", text)]
    return shown + [
        number for source in (*(cell.source for cell in code), claims) for number in numbers_of_code(source)
    ]


def stands_in(number: str, known: list[float]) -> bool:
    places = len(number.partition(".")[2])
    wanted = abs(value(number))
    half = 0.5000001 * 10**-places
    return any(abs(abs(v) - wanted) <= half or (abs(v) <= 1 and abs(abs(100 * v) - wanted) <= half) for v in known)


def unfounded(notebook: NotebookNode, claims: str) -> list[str]:
    """The numbers of the text that nothing gives, with the words around them."""
    known, found = evidence(notebook, claims), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and not cell.source.startswith("## Exercises"):  # they ask, and claim nothing
            prose = NOT_PROSE.sub(" ", cell.source)
            for match in NUMBER.finditer(prose):
                if not stands_in(match.group(), known):
                    found.append(" ".join(prose[max(0, match.start() - 40) : match.end() + 30].split()))
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_every_number_of_the_text_follows_from_what_runs(path: Path) -> None:
    claims = ROOT / "tests" / "claims" / f"{path.stem}.py"
    assert unfounded(nbformat.read(path, as_version=4), claims.read_text(encoding="utf-8")) == []


def chapter(text: str, output: str = "", code: str = "x = 0") -> NotebookNode:
    shown = nbformat.v4.new_output("stream", text=output)
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell(code, outputs=[shown])]
    )


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("It has 62.6 % left", "0.6259"),
        ("It has 63,122 of them", "63122"),
        ("a fall of −0.46", "-0.4612"),
        ("See chapter 77 and section 2.4, `x = 99`, $y = 98$", ""),
        ("89.60 % right", "89.6"),
    ],
)
def test_a_number_that_is_shown_passes(text: str, output: str) -> None:
    assert unfounded(chapter(text, output), "") == []


@pytest.mark.parametrize(
    ("text", "output"), [("It has 62.7 % left", "0.6259"), ("a cost of 0.74 points", "0.73"), ("39,200 weights", "392")]
)
def test_a_number_that_has_drifted_fails(text: str, output: str) -> None:
    assert len(unfounded(chapter(text, output), "")) == 1


def test_a_claim_is_enough() -> None:
    assert unfounded(chapter("It is 12.5 times as long"), "assert 12.4 < times < 12.6") != []
    assert unfounded(chapter("It is 12.5 times as long"), "assert round(times, 1) == 12.5") == []
