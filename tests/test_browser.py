"""The book's pages in a real browser: they load, read, search, switch to dark, and leave nobody out.

Every page is visited once, by `visits`, which keeps what it saw; each test then holds one rule over all pages. With
SCREENSHOTS=1 two pictures of every page are in build/screenshots afterwards. Without a Chromium the tests are skipped,
and fail on CI.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

from cnnprune_utils.book.chapters import chapters_in

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "html"
SCREENSHOTS = ROOT / "build" / "screenshots" if os.environ.get("SCREENSHOTS") else None  # they take a third of the time
CHAPTERS = [path.stem for path in chapters_in(ROOT / "notebooks")]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}  # a desk, a phone
ABORTED = "net::ERR_ABORTED"
FIRST_PAINT = 1500  # milliseconds
OWN, WHOLE = 1_000_000, 4_000_000  # bytes: a page's text and pictures; the same with theme and mathematics

# What a page is, read off its document.
LOOK = """() => {
  const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  const size = e => [new URL(e.name).pathname, e.decodedBodySize];
  const article = document.querySelector('article') || document.body;
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  let prose = '';
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest('pre, code, script, style, math'))
    prose += walker.currentNode.data + ' ';
  const link = s => document.querySelector(s)?.getAttribute('href') ?? null;
  return {
    title: document.title,
    paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null,
    sizes: entries.map(size),
    figures: [...article.querySelectorAll('img:not([src*="_static/"])')].map(
      i => [i.getAttribute('src'), i.getAttribute('alt'), i.naturalWidth]),
    formulas: [...article.querySelectorAll('math')].map(m => {
      const box = m.getBoundingClientRect();
      return [m.getAttribute('alttext'), box.width, box.height, !!m.closest('details:not([open])')];
    }),
    prose: prose,
    next: link('a.right-next'),
    previous: link('a.left-prev'),
  };
}"""
# What sticks out to the right of the page, as long as it is not inside of something that scrolls by itself.
WIDER = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = e => { for (; e && e !== document.body; e = e.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(e).overflowX)) return true; return false; };
  const wide = [...document.querySelectorAll('body *')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && box.height && box.right > width + 1 && box.left < width && !scrolls(e);
  }).map(e => e.tagName + '.' + e.className + ' ' + Math.round(e.getBoundingClientRect().right));
  return document.documentElement.scrollWidth > width ? ['the page', ...wide] : wide;
}"""

# Marks the visible elements whose kind no page before has shown, and returns these kinds. Elements are of one kind, and
# have their colours from the same rules, when they and the four around them have the same tags, classes and styles.
MARK = """seen => {
  const known = new Set(seen), fresh = new Set();
  const own = e => [e.tagName, ...[...e.classList].sort(), e.getAttribute('style'),
    e.tagName === 'TR' ? [...e.parentElement.children].indexOf(e) % 2 : ''].join('.');
  const kind = e => {
    let name = '';
    for (let i = 0; i < 5 && e; i++, e = e.parentElement) name += own(e) + ' ';
    return name;
  };
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('math, svg') || !e.checkVisibility()) continue;
    const name = kind(e);
    if (!known.has(name)) { known.add(name); fresh.add(name); e.dataset.fresh = ''; }
  }
  // the thousands of other coloured words in code would only take their time
  for (const word of document.querySelectorAll('.highlight pre span:not([data-fresh])'))
    if (!word.querySelector('[data-fresh]')) word.replaceWith(word.textContent);
  document.body.normalize();
  return [...fresh];
}"""
COLOURS = ("color-contrast", "link-in-text-block")  # axe's rules of colours


@dataclass
class Visit:
    """What was seen on one page."""

    look: dict[str, Any] = field(default_factory=dict)
    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    wider: list[str] = field(default_factory=list)
    violations: dict[str, list[str]] = field(default_factory=dict)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static host that says nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of pages, built from the outputs that the notebooks hold."""
    run = subprocess.run([sys.executable, "site/pages.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return SITE


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the pages are served, as any static host would."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once. Where there is none the tests say so: they are skipped, or fail on CI."""
    if CHROMIUM is None:
        reason = f"there is no Chromium here (looked for {', '.join(NAMES)}): apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    # Chromium refuses its sandbox to the administrator, who is who runs a container; these pages are our own
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


def pages(site: Path) -> list[str]:
    """Every page of the site, by its path, without the ending."""
    found = (path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html"))
    return sorted(name for name in found if not name.startswith("_"))


def watched(page: Any, origin: str) -> Visit:
    """A record that fills with what goes wrong on a page."""
    visit = Visit()
    page.on("console", lambda message: message.type in ("error", "warning") and visit.console.append(message.text))
    page.on("pageerror", lambda error: visit.console.append(str(error)))
    # a request that is under way when the reader moves on to another page is aborted, and nothing is wrong
    page.on("requestfailed", lambda request: request.failure == ABORTED or visit.failed.append(request.url))
    page.on("response", lambda answer: answer.status >= 400 and visit.failed.append(f"{answer.status} {answer.url}"))

    def judge(request: Any) -> None:
        if not request.url.startswith((origin, "data:", "blob:")):
            visit.foreign.append(request.url)

    page.on("request", judge)
    return visit


def violations(page: Any, *, colours: bool) -> list[str]:
    """What axe calls serious or critical: the rule, and the first places.

    Args:
        colours: the rules of colours alone, of the elements that `MARK` has marked; else all other rules, of the page.
    """
    from axe_playwright_python.sync_playwright import Axe

    if colours and not page.locator("[data-fresh]").count():
        return []
    # preload would look for imported style sheets at wrong places
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    options |= {"runOnly": COLOURS} if colours else {"rules": {rule: {"enabled": False} for rule in COLOURS}}
    context = {"include": [["[data-fresh]"]]} if colours else None
    found = Axe().run(page, context=context, options=options).response["violations"]
    grave = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {[node['html'][:160] for node in rule['nodes'][:3]]}" for rule in grave]


def first_paint(browser: Any, url: str) -> float:
    """Milliseconds until a browser that has never been here shows something."""
    page = browser.new_page(viewport=WIDE)
    page.goto(url)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    milliseconds = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    return float(milliseconds)


def inspect(browser: Any, address: str, name: str, kinds: set[str]) -> Visit:
    """Visit one page, as a first-time reader: at a desk in the light, on a phone in the dark.

    Args:
        browser: where to open it.
        address: of the site.
        name: of the page.
        kinds: of the elements that were seen on other pages; those of this one are added.
    """
    context = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    visit = watched(page, address)
    page.goto(f"{address}/{name}.html", wait_until="load")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    visit.look = page.evaluate(LOOK)

    def picture(kind: str) -> None:
        if SCREENSHOTS is None:
            return
        path = SCREENSHOTS / f"{name.replace('/', '-')}-{kind}.png"
        page.screenshot(path=path, full_page=True, animations="disabled")

    picture("light")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.set_viewport_size(NARROW)
    visit.wider = page.evaluate(WIDER)
    picture("dark-narrow")
    page.set_viewport_size(WIDE)
    kinds |= {*page.evaluate(MARK, [*kinds])}
    visit.violations["dark"] = violations(page, colours=True)
    page.emulate_media(color_scheme="light")
    page.wait_for_function("document.documentElement.dataset.theme === 'light'")
    visit.violations["light"] = violations(page, colours=True)
    visit.violations["any"] = violations(page, colours=False)
    context.close()
    return visit


@pytest.fixture(scope="module")
def visits(browser: Any, address: str, site: Path) -> dict[str, Visit]:
    if SCREENSHOTS is not None:
        shutil.rmtree(SCREENSHOTS, ignore_errors=True)
        SCREENSHOTS.mkdir(parents=True)
    kinds: set[str] = set()
    return {name: inspect(browser, address, name, kinds) for name in pages(site)}


def where(visits: dict[str, Visit], what: str) -> dict[str, Any]:
    """The pages on which something was seen that should not be there."""
    return {name: seen for name, visit in visits.items() if (seen := getattr(visit, what))}


def test_every_page_loads_with_no_error_in_the_console(visits: dict[str, Visit]) -> None:
    assert {*CHAPTERS, "index", "board", "glossary", "references", "search", "api/index"} <= visits.keys()
    assert where(visits, "console") == {}


def test_no_request_fails(visits: dict[str, Visit]) -> None:
    assert where(visits, "failed") == {}


def test_no_request_leaves_the_site(visits: dict[str, Visit]) -> None:
    assert where(visits, "foreign") == {}


def test_every_formula_is_laid_out(visits: dict[str, Visit]) -> None:
    raw = re.compile(r"\$[^$\n]{1,80}\$|\\\(|\\\[|\\(?:frac|sum|partial|text)\b")
    for name, visit in visits.items():
        assert not raw.search(visit.look["prose"]), f"{name}: {raw.search(visit.look['prose'])}"
        for tex, width, height, hidden in visit.look["formulas"]:
            assert tex
            assert hidden or (width > 2 and height > 2), f"{name}: {tex} takes no room"
    chapter = nbformat.read(ROOT / "notebooks" / "02_taylor_criterion.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    written = {" ".join(tex.strip("$").split()) for tex in re.findall(r"\$\$.+?\$\$|\$[^$]+\$", prose, flags=re.DOTALL)}
    assert len(written) > 20
    assert written <= {tex for tex, *_ in visits["02_taylor_criterion"].look["formulas"]}


def test_every_figure_is_there_and_says_what_it_shows(visits: dict[str, Visit]) -> None:
    for name, visit in visits.items():
        for source, alt, width in visit.look["figures"]:
            assert width > 0, f"{name}: {source} is not there"
            assert alt is not None, f"{name}: {source} has no alt text"
            assert len(alt) >= 60, f"{name}: {source} is described as {alt!r}"
    assert all(visits[name].look["figures"] for name in CHAPTERS)


def test_nothing_is_wider_than_a_phone(visits: dict[str, Visit]) -> None:
    assert where(visits, "wider") == {}


@pytest.mark.parametrize("theme", ["any", "light", "dark"])
def test_axe_finds_nothing_serious(visits: dict[str, Visit], theme: str) -> None:
    assert {name: found for name, visit in visits.items() if (found := visit.violations[theme])} == {}


def test_a_page_is_light(visits: dict[str, Visit]) -> None:
    for name, visit in visits.items():
        sizes = dict(visit.look["sizes"])
        own = sum(size for path, size in sizes.items() if "/_static/" not in path)
        assert own < OWN, f"{name} has {own:,} bytes of its own"
        assert sum(sizes.values()) < WHOLE, f"{name} has {sum(sizes.values()):,} bytes with its theme"


def test_a_page_is_painted_soon(visits: dict[str, Visit], browser: Any, address: str) -> None:
    for name, visit in visits.items():
        paint = visit.look["paint"]
        for _ in range(3):  # a busy machine is no fault of the page
            if paint > FIRST_PAINT:
                paint = min(paint, first_paint(browser, f"{address}/{name}.html"))
        assert paint <= FIRST_PAINT, f"{name} is first painted after {paint:.0f} ms"


def test_previous_and_next_walk_through_the_whole_book(visits: dict[str, Visit]) -> None:
    def target(name: str, link: str | None) -> str | None:
        return link and os.path.normpath(Path(name).parent / link.removesuffix(".html"))

    walk: list[str] = []
    name: str | None = "index"
    while name:
        assert name not in walk, f"{name} comes twice"
        if walk:
            assert target(name, visits[name].look["previous"]) == walk[-1]
        walk.append(name)
        name = target(name, visits[name].look["next"])
    assert walk[: len(CHAPTERS) + 1] == ["index", *CHAPTERS]
    assert visits.keys() - set(walk) == {"search", "genindex", "py-modindex"}


def test_the_reference_speaks_in_whole_sentences(site: Path) -> None:
    """And repeats nothing that Python wrote for want of a docstring."""
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        torn = re.search(r'Returns<span class="colon">:</span></dt>\s*<dd[^>]*>\s*<p>\s*<em>([^<]*)</em> –', text)
        assert not torn, f"{page.name}: {torn and torn[1]}"
        assert "Alias for field number" not in text, page.name


def test_github_serves_every_folder(site: Path) -> None:
    assert (site / ".nojekyll").exists()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """An empty page of its own for one test; an error in its console fails the test."""
    context = browser.new_context(
        viewport=WIDE, color_scheme="light", permissions=["clipboard-read", "clipboard-write"]
    )
    opened = context.new_page()
    visit = watched(opened, address)
    yield opened
    context.close()
    assert (visit.console, visit.failed, visit.foreign) == ([], [], [])


def test_search_finds_taylor(page: Any, address: str) -> None:
    page.goto(f"{address}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("Taylor")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=Taylor*")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('#search-results p.search-summary')?.innerText.includes('found')")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.getAttribute('href'))")
    assert any(link.startswith("02_taylor_criterion.html") for link in found)
    assert any(link.startswith("glossary.html") for link in found)


def test_dark_mode_stays_and_figures_are_readable(page: Any, address: str) -> None:
    brightness = """selector => {
      const color = getComputedStyle(document.querySelector(selector)).backgroundColor;
      const [r, g, b, a] = color.match(/[\\d.]+/g).map(Number);
      return a === 0 ? null : (r + g + b) / 3;
    }"""
    page.goto(f"{address}/04_prune.html")
    assert page.evaluate(brightness, "body") > 240
    page.locator("button.theme-switch-button:visible").click()
    page.locator("button.theme-change-button:visible", has_text="Dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(brightness, "body") < 40
    assert page.evaluate(brightness, "article img") > 240
    assert page.evaluate("getComputedStyle(document.querySelector('article img')).filter") == "none"
    page.locator("a.right-next").click()
    page.wait_for_url("**/05_fine_tune.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_copy_button_copies_a_cell(page: Any, address: str) -> None:
    page.goto(f"{address}/04_prune.html")
    cell = page.locator("div.cell_input").first
    cell.hover()
    cell.locator("button.copybtn").click()
    chapter = nbformat.read(ROOT / "notebooks" / "04_prune.ipynb", as_version=4)
    first = next(cell.source for cell in chapter.cells if cell.cell_type == "code")
    assert page.evaluate("navigator.clipboard.readText()").strip() == first.strip()


def test_an_answer_is_folded_until_it_is_opened(page: Any, address: str) -> None:
    page.goto(f"{address}/04_prune.html")
    page.locator("article a[href='solutions/04_prune.html']").first.click()
    page.wait_for_url("**/solutions/04_prune.html")
    answers = page.locator("details.answer")
    assert answers.count() == 3
    exercise, inside = page.locator("#exercise-1 em").first, answers.first.locator("div.cell").first
    assert exercise.is_visible()
    assert not inside.is_visible()
    answers.first.locator("summary").click()
    assert inside.is_visible()


def test_on_paper_every_answer_is_open(page: Any, address: str) -> None:
    page.goto(f"{address}/solutions/04_prune.html")
    seen = "bodies => bodies.map(body => body.checkVisibility())"
    for media in ("screen", "print"):
        page.emulate_media(media=media)
        shown = page.eval_on_selector_all("details.answer > .answer-body > *", seen)
        assert shown
        assert set(shown) == {media == "print"}


def test_the_pages_work_from_the_disk(browser: Any, site: Path) -> None:
    for name in (*CHAPTERS, "index", "board", "glossary", "search"):
        page = browser.new_page(viewport=WIDE)
        visit = watched(page, site.as_uri())
        page.goto((site / f"{name}.html").as_uri() + ("?q=Taylor" if name == "search" else ""))
        if name == "search":
            page.wait_for_selector("#search-results li a[href*='02_taylor_criterion.html']")
            page.wait_for_function(
                "document.querySelector('#search-results .search-summary').innerText.includes('found')"
            )
        page.close()
        assert (visit.console, visit.failed, visit.foreign) == ([], [], []), name


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab with a token, as a reader starts it, in a copy of the checkout: its address and the copy."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    notebook = nbformat.read(tmp_path / "notebooks" / "04_prune.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "notebooks" / "04_prune.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = "a-token-of-the-test"
    settings = [f"--port={port}", "--no-browser", "--allow-root", f"--IdentityProvider.token={token}"]
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    # the data of this checkout; the kernel of this Python; nothing of the user's own
    own |= {"CNNPRUNE_DATA": os.environ.get("CNNPRUNE_DATA", str(ROOT / "data"))}
    own |= {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}
    log = (tmp_path / "log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *settings]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 90
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, "JupyterLab has not started"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/04_prune.ipynb?token={token}", tmp_path
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def board_in(page: Any) -> Any:
    """The gate board of an open notebook. JupyterLab keeps only the cells near the screen, so it is looked for."""
    board = page.locator(".gate-board")
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
    for _ in range(60):
        if board.count() and board.locator("[role=switch]").count():
            board.scroll_into_view_if_needed()
            return board
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollBy(0, 400)")
        page.wait_for_timeout(300)
    raise AssertionError("there is no board")


def numbers(board: Any) -> dict[str, str]:
    """What the tiles of a board show."""
    found: dict[str, str] = board.evaluate(
        """root => Object.fromEntries([...root.querySelectorAll('.gb-tile')].map(
            tile => [tile.dataset.name, tile.querySelector('.gb-value').textContent]))"""
    )
    return found


@pytest.mark.slow
def test_jupyterlab_runs_chapter_4_and_its_board(browser: Any, lab: tuple[str, Path]) -> None:
    address, copy = lab
    page = browser.new_page(viewport=WIDE)
    page.set_default_timeout(60_000)
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # the toolbar says idle before there is a kernel, and a run would then ask for one; the status bar knows
    page.locator(".jp-StatusBar-Widget, #jp-main-statusbar", has_text=re.compile(r"\| Idle")).first.wait_for()
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()

    def cells() -> list[Any]:
        notebook = nbformat.read(copy / "notebooks" / "04_prune.ipynb", as_version=4)
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    until = time.monotonic() + 300
    while None in [cell.execution_count for cell in cells()] and time.monotonic() < until:
        page.wait_for_timeout(2000)
        page.keyboard.press("Control+s")
    run = cells()
    assert [cell.execution_count for cell in run] == list(range(1, len(run) + 1))
    outputs = [output for cell in run for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2

    board = board_in(page)
    shown = numbers(board)
    assert (shown["Accuracy"], shown["Parameters"]) == ("76.22 %", "23,617")  # the chapter's plan, eight gates closed
    changed = board.get_by_text(re.compile(r"^\d+ of 200 answers differ")).inner_text()
    if SCREENSHOTS is not None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "jupyterlab.png")
    closed = board.get_by_role("switch", checked=False).first
    closed.focus()
    page.keyboard.press("Space")
    assert board.get_by_role("switch", checked=False).count() == 7
    opened = numbers(board)
    assert all(opened[name] != shown[name] for name in ("Accuracy", "Loss", "Parameters", "MACs"))
    # the numbers come from the browser; the answers that changed come from Python, in its own time
    board.get_by_text(re.compile(r"^\d+ of 200 answers differ")).filter(has_not_text=changed).wait_for()
    page.close()
