"""The gate board: its numbers, its widget without a browser, and its page in a real one, from disk."""

from __future__ import annotations

import base64
import json
import os
import re
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_networks import assert_unchanged, one_thread, randomize, snapshot  # noqa: F401
from torch import nn

from benchmarks import board as maker
from benchmarks import recipe
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.board import NoBoard, board, page
from cnnprune_utils.board.facts import Facts, identity, measure, shipped, shipped_json
from cnnprune_utils.board.pictures import Pictures, grey
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.fashion_mnist import CLASS_NAMES
from cnnprune_utils.book.shipped import checkpoint
from cnnprune_utils.criteria import taylor
from cnnprune_utils.exhaustive import all_subnetworks, best_of_each_size, row_of
from cnnprune_utils.gates import mask
from cnnprune_utils.metrics import macs, parameters
from cnnprune_utils.plan import Plan, lowest, rank
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate, predict

ROOT = Path(__file__).resolve().parents[1]
CHAPTER_4 = Plan({"network.0": (0,), "network.2": (2, 3), "network.4": (0, 1, 2, 4, 5)})


@pytest.fixture(scope="module")
def baseline() -> nn.Module:
    return checkpoint("baseline")


def small(n: int = 40, seed: int = 0) -> tuple[CNN, Split]:
    """A network of 2 + 3 + 2 filters with random weights, and random images of 6 x 5."""
    generator = torch.Generator().manual_seed(seed)
    model = randomize(CNN((2, 3, 2), image_size=(6, 5), n_classes=4), seed)
    return model, Split(torch.rand(n, 1, 6, 5, generator=generator), torch.randint(4, (n,), generator=generator))


# ------------------------------------------------------------------------------------------------------------- facts


def test_facts_hold_what_all_subnetworks_measures() -> None:
    model, split = small()
    before = snapshot(model)
    facts, table = measure(model, split), all_subnetworks(model, split)
    assert len(facts.correct) == len(facts.loss) == 2**7
    for closed in range(2**7):
        row = row_of(table, facts.plan(closed))
        assert facts.correct[closed] == round(row["accuracy"] * len(split))
        assert facts.loss[closed] == row["loss"]
        assert facts.number(facts.plan(closed)) == closed
    assert [facts.plan(closed).n_filters for closed in facts.best] == list(range(7 - 3 + 1))
    best = best_of_each_size(table)["accuracy"]
    assert [facts.correct[closed] / len(split) for closed in facts.best] == pytest.approx(best.tolist())
    assert_unchanged(model, before)


def test_costs_are_those_of_networks_that_were_pruned() -> None:
    model, split = small()
    facts = measure(model, split)
    assert len(facts.costs) == 2 * 3 * 2
    pruned = prune(model, Plan({"network.0": (0,), "network.2": (0, 2)}))
    assert facts.costs[1, 1, 2] == (parameters(pruned), macs(pruned, split.inputs))
    assert facts.costs[2, 3, 2] == (parameters(model), macs(model, split.inputs))


def test_facts_travel_as_json() -> None:
    facts = measure(*small())
    same = Facts.from_json(facts.to_json(more=1))
    assert same.layers == facts.layers
    assert (same.n, same.best, same.costs, same.fingerprint) == (facts.n, facts.best, facts.costs, facts.fingerprint)
    assert np.array_equal(same.correct, facts.correct)
    assert np.allclose(same.loss, facts.loss, rtol=1e-4, atol=0)
    assert same.scores.columns.tolist() == facts.scores.columns.tolist()
    assert np.allclose(same.scores["normalized"], facts.scores["normalized"], rtol=1e-5)
    newer = json.dumps(json.loads(facts.to_json()) | {"format": 99})
    with pytest.raises(ValueError, match="99"):
        Facts.from_json(newer)


@pytest.mark.parametrize("rest", [0.0, 2.5])
def test_a_loss_of_zero_travels_too(rest: float) -> None:
    facts = measure(*small())
    facts = replace(facts, loss=np.where(np.arange(2**7) < 5, 0.0, rest))
    assert np.allclose(Facts.from_json(facts.to_json()).loss, facts.loss, rtol=1e-3, atol=1e-11)


def test_a_plan_of_another_network_is_refused() -> None:
    facts = measure(*small())
    for plan in (Plan({"conv": (0,)}), Plan({"network.0": (2,)})):
        with pytest.raises(ValueError, match=r"network\.0 \(2 filters\), network\.2 \(3 filters\)"):
            facts.number(plan)


def test_what_the_fingerprint_knows() -> None:
    model, split = small()
    other_labels = Split(split.inputs, (split.targets + 1) % 4)
    prints = {
        identity(model, split),
        identity(small(seed=1)[0], split),
        identity(model, split.subset(39)),
        identity(model, other_labels),
    }
    assert len(prints) == 4
    assert identity(small()[0], small()[1]) == identity(model, split)


# ---------------------------------------------------------------------------------------------------- the shipped file


def test_the_shipped_file_is_of_the_committed_baseline(baseline: nn.Module, splits: Splits) -> None:
    facts, text = shipped(), shipped_json()
    assert len(text) < 100_000
    assert facts.fingerprint == identity(baseline, splits.validation)
    assert facts.n == len(splits.validation) == 5000
    assert facts.made[0] == "python -m benchmarks.board"
    assert "PyTorch" in facts.made[1]
    assert facts.made[2:] == maker.SETTINGS.splitlines()
    assert json.loads(text)["measured"] == maker.MEASURED


def test_shipped_rows_are_what_closed_gates_give(baseline: nn.Module, splits: Splits) -> None:
    facts = shipped()
    generator = np.random.default_rng()  # other rows each time
    some = [facts.number(CHAPTER_4), 0, 2**14 - 1, *generator.integers(2**14, size=6).tolist()]
    for closed in some:
        result = evaluate(mask(baseline, facts.plan(closed)), splits.validation)
        assert facts.correct[closed] == pytest.approx(result.accuracy * 5000, abs=1), facts.plan(closed)
        assert facts.loss[closed] == pytest.approx(result.loss, rel=1e-4), facts.plan(closed)


def test_shipped_scores_lead_to_the_chapters_plans(baseline: nn.Module, splits: Splits) -> None:
    facts = shipped()
    ranks = rank(taylor(baseline, splits.validation))
    assert facts.scores["rank"].tolist() == ranks["rank"].tolist()
    assert np.allclose(facts.scores["normalized"], ranks["normalized"], rtol=1e-3, atol=1e-6)
    assert lowest(facts.scores, 8) == recipe.make_plan(baseline, splits) == CHAPTER_4
    assert facts.costs[1, 2, 3] == (23_617, macs(prune(baseline, CHAPTER_4), splits.validation.inputs))
    accuracies = [f"{facts.correct[closed] / 50:.2f}" for closed in facts.best]
    assert accuracies[6:10] == ["87.20", "84.06", "84.06", "80.56"]


def test_the_shipped_answers_are_the_networks_own(baseline: nn.Module, splits: Splits) -> None:
    pictures = maker.pictures(splits.validation)
    assert pictures.targets.tolist() == [*range(10), *range(10)]
    record = json.loads(shipped_json())
    text = record["pictures"]["answers"]
    answers = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(20, -1)
    for closed in (0, shipped().number(CHAPTER_4), 77, 4242):
        outputs = mask(baseline, shipped().plan(closed))
        assert answers[:, closed].tolist() == predict(outputs, pictures).tolist()


def test_making_the_file_again_gives_the_same_record() -> None:
    model, split = small()
    facts = measure(model, split)
    shown = Split(torch.rand(20, 1, 6, 5), torch.arange(20) % 10)
    record = json.loads(facts.to_json(**maker.page(model, shown, facts)))
    assert record["classes"] == list(CLASS_NAMES)
    assert record["pictures"]["size"] == [6, 5]
    assert [conv["shape"] for conv in record["convolutions"]] == [[2, 1, 3, 3], [3, 2, 3, 3], [2, 3, 3, 3]]


# -------------------------------------------------------------------------------------------------- looking at pictures


def test_outputs_are_those_of_closed_gates() -> None:
    model, split = small()
    before = snapshot(model)
    eyes, facts = Pictures(model, split), measure(model, split)
    for closed in range(2**7):
        with torch.no_grad():
            wanted = mask(model, facts.plan(closed))(split.inputs)
        assert torch.allclose(eyes.outputs(closed), wanted, atol=1e-4)
    assert_unchanged(model, before)


def test_maps_are_what_reaches_the_gates() -> None:
    model, split = small()
    eyes = Pictures(model, split)
    x = split.inputs[:1]
    first, second, third = (model.network[i] for i in (0, 2, 4))
    with torch.no_grad():
        a = first(x).relu()
        b = second(a * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)).relu()
        c = third(b * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1)).relu()
    maps = eyes.maps(0, 0b01_100_01)  # filter 0 of the first, 2 of the second, 0 of the third
    wanted = [*a[0], *b[0], *c[0]]
    assert [m.shape for m in maps] == [(6, 5)] * 7
    for mine, theirs in zip(maps, wanted, strict=True):
        assert np.allclose(mine, theirs.numpy(), atol=1e-5)


def test_maps_that_were_pooled_keep_their_shape() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)
    )
    split = Split(torch.rand(5, 1, 8, 8), torch.randint(3, (5,)))
    assert {m.shape for m in Pictures(model, split).maps(1, 0)} <= {(4, 4), (8, 8)}


def test_grey_cuts_off_what_lies_outside() -> None:
    assert grey(np.array([-1, 0, 0.5, 1, 2], np.float32), 1.0).tolist() == [0, 0, 128, 255, 255]
    assert grey(np.zeros(2, np.float32), 0.0).tolist() == [0, 0]


# ---------------------------------------------------------------------------------------------------------- the widget


def test_without_anywidget_the_package_works(tmp_path: Path) -> None:
    code = "\n".join(
        [
            "import importlib.util, sys",
            "sys.modules['anywidget'] = None",  # an import of it fails
            "find = importlib.util.find_spec",
            "importlib.util.find_spec = lambda name, *more: None if name == 'anywidget' else find(name, *more)",
            "from cnnprune_utils.board import board, page",
            "print(len(page.script()) > 1000)",
            "print(board(None, None))",
        ]
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("True\nThe gate board needs the package anywidget")
    assert "pip install anywidget" in run.stdout
    assert repr(NoBoard()) in run.stdout


@pytest.fixture(scope="module")
def widget(baseline: nn.Module, splits: Splits) -> Any:
    pytest.importorskip("anywidget")
    return board(baseline, splits.validation)


@pytest.fixture
def open_widget(widget: Any) -> Any:
    widget.closed = widget.picture = 0
    return widget


def test_the_books_board_has_the_shipped_numbers(open_widget: Any) -> None:
    assert open_widget.known is shipped()
    record = json.loads(open_widget.facts)
    assert record["correct"] == json.loads(shipped_json())["correct"]
    assert "5,000 images" in record["measured"]
    assert repr(open_widget) == "Board(14 gates, 5,000 images)"  # the same on every run: notebooks compare it
    assert open_widget.view["changed"]["n"] == 0


def test_the_browser_is_answered(open_widget: Any, baseline: nn.Module, splits: Splits) -> None:
    sent: list[Any] = []
    open_widget.observe(lambda change: sent.append(change["new"]), "view")
    state = {"closed": shipped().number(CHAPTER_4), "picture": 3}
    open_widget._handle_msg(
        {"content": {"data": {"method": "update", "state": state, "buffer_paths": []}}, "buffers": []}
    )
    view = sent[-1]
    assert (view["closed"], view["picture"]) == (state["closed"], 3)
    shown = splits.validation.subset(200)
    now, whole = predict(mask(baseline, CHAPTER_4), shown), predict(baseline, shown)
    changed = (now != whole).nonzero().flatten().tolist()
    assert view["changed"]["n"] == len(changed)
    assert [item["picture"] for item in view["changed"]["shown"]] == changed[:12]
    assert [item["answer"] for item in view["changed"]["shown"]] == now[changed[:12]].tolist()
    assert (view["label"], view["answer"], view["before"]) == (shown.targets[3], now[3], whole[3])
    assert view["image"]["bytes"] == (shown.inputs[3] * 255).round().to(torch.uint8).numpy().tobytes()
    assert [(m["height"], m["width"], len(m["bytes"])) for m in view["maps"]] == [(28, 28, 784)] * 14


def test_the_plan_of_a_board_can_be_read_and_set(open_widget: Any) -> None:
    open_widget.plan = CHAPTER_4
    assert open_widget.closed == shipped().number(CHAPTER_4)
    assert open_widget.plan == CHAPTER_4
    for wrong in ({"closed": 2**14}, {"closed": -1}, {"picture": 200}):
        with pytest.raises(Exception, match="from 0 to"):
            open_widget.set_trait(*next(iter(wrong.items())))
    assert open_widget.plan == CHAPTER_4


def test_a_switch_is_answered_within_100_ms(widget: Any, baseline: nn.Module, splits: Splits) -> None:
    """Also the first time that gates of another layer than the last are closed, when nothing of it is kept."""
    widget._pictures = Pictures(baseline, splits.validation.subset(200))
    seconds = []
    for i in [*range(14), *range(6, 14)]:
        start = time.perf_counter()
        widget.closed ^= 1 << i
        seconds.append(time.perf_counter() - start)
        assert widget.view["closed"] == widget.closed
    widget.closed = 0
    assert statistics.median(seconds) < 0.1
    assert statistics.median(seconds[:6]) < 0.1  # the first two layers


def test_another_network_has_a_board_too() -> None:
    pytest.importorskip("anywidget")
    model, split = small()
    mine: Any = board(model, split, class_names=("a", "b"), n_pictures=10)
    assert mine.n_pictures == 10
    assert repr(mine) == "Board(7 gates, 40 images)"
    mine.plan = Plan({"network.2": (0, 1, 2)})  # an empty layer
    assert len(mine.view["maps"]) == 7
    assert mine.known.fingerprint == identity(model, split)


def test_a_network_without_a_board_is_refused_at_once() -> None:
    pytest.importorskip("anywidget")
    with pytest.raises(ValueError, match="at_most"):
        board(CNN((8, 12, 8), image_size=4), Split(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])))


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_script_is_small_and_asks_nobody() -> None:
    script, style = page.script(), page.style()
    assert len(script) + len(style) < 100_000
    assert not re.search(r"^\s*(import|export)\b|import\(|fetch\(|XMLHttpRequest", script, flags=re.MULTILINE)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", script + style)


def test_files_are_written_only_when_they_change(tmp_path: Path) -> None:
    page.write_files(tmp_path / "new")
    written = tmp_path / "new" / "gate-board.js"
    assert written.read_text(encoding="utf-8") == page.script()
    os.utime(written, (1, 1))
    page.write_files(tmp_path / "new")
    assert written.stat().st_mtime == 1


CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The gate board</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="gate-board.css">
<style>:root { color-scheme: light dark } [data-theme=dark] { background: #14181e; color: #ced6dd }</style>
</head><body>
<main><h1>The gate board</h1><h2>The board</h2><div data-gate-board></div></main>
<script defer src="gate-board.js"></script></body></html>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright

        if CHROMIUM is None:
            raise ImportError("there is no Chromium here (Debian, Ubuntu: apt-get install chromium)")
    except ImportError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the browser tests must run here: {error}")
        pytest.skip(f"no browser: {error}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a page")
    page.write_files(folder)
    (folder / "index.html").write_text(HTML, encoding="utf-8")
    return folder


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, folder: Path) -> Iterator[Open]:
    """Opens the board's page from disk; afterwards nothing was said on the console, and nothing was requested."""
    problems: list[str] = []
    pages: list[Any] = []

    def open_(**options: Any) -> Any:
        tab = browser.new_page(**options)
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("requestfailed", lambda request: problems.append(request.url))
        tab.on("request", lambda request: problems.append(request.url) if not ours(request.url) else None)
        tab.goto((folder / "index.html").as_uri())
        tab.wait_for_selector("[data-ready]")
        pages.append(tab)
        return tab

    def ours(url: str) -> bool:
        return url.startswith((folder.as_uri(), "blob:", "data:"))

    yield open_
    for tab in pages:
        tab.close()
    assert problems == []


def numbers(tab: Any) -> dict[str, str]:
    return {
        tile.get_attribute("data-name"): tile.query_selector(".gb-value").inner_text()
        for tile in tab.query_selector_all(".gb-tile")
    }


def close(tab: Any, plan: Plan) -> None:
    for name, filters in plan.remove.items():
        for k in filters:
            tab.get_by_label(f"gate of filter {k} of {name}").click()


def plan_of(tab: Any) -> Plan:
    gates = [
        (re.fullmatch(r"gate of filter (\d+) of (.+)", s.get_attribute("aria-label")), s.is_checked())
        for s in tab.get_by_role("switch").all()
    ]
    closed = [(found[2], int(found[1])) for found, checked in gates if found and not checked]
    return Plan({name: tuple(k for layer, k in closed if layer == name) for name, _ in closed})


def expected(plan: Plan, baseline: nn.Module, splits: Splits) -> dict[str, str]:
    """What the board must show, by Python alone: closed gates, surgery, and the table's percentile."""
    facts, result, pruned = shipped(), evaluate(mask(baseline, plan), splits.validation), prune(baseline, plan)
    size = [closed for closed in range(2**14) if bin(closed).count("1") == plan.n_filters]
    full = [c for c in size if all(len(facts.plan(c).remove.get(n, ())) < k for n, k in facts.layers.items())]
    accuracy = facts.correct[full] / facts.n
    below = 100 * float((accuracy <= result.accuracy).mean())
    return {
        "Accuracy": f"{100 * result.accuracy:.2f} %",
        "Loss": f"{result.loss:.3f}",
        "Parameters": f"{parameters(pruned):,}",
        "MACs": f"{macs(pruned, splits.validation.inputs):,}",
        "Percentile": f"{below:.2f} %" if 99 < below < 100 else f"{below:.1f} %",
        "Best of its size": f"{100 * accuracy.max():.2f} %",
    }


def test_a_plan_clicked_together_shows_pythons_numbers(open_page: Open, baseline: nn.Module, splits: Splits) -> None:
    tab = open_page()
    assert numbers(tab)["Accuracy"] == "89.60 %"
    close(tab, CHAPTER_4)
    assert plan_of(tab) == CHAPTER_4
    assert numbers(tab) == expected(CHAPTER_4, baseline, splits)
    assert numbers(tab)["Parameters"] == "23,617"
    status = tab.get_by_role("status").inner_text()
    assert "8 of 14 gates closed" in status
    assert numbers(tab)["Accuracy"] in status
    close(tab, CHAPTER_4)  # the same clicks open them again
    assert numbers(tab)["Accuracy"] == "89.60 %"


def test_a_switch_changes_all_numbers_within_100_ms(open_page: Open) -> None:
    milliseconds = open_page().evaluate(
        """() => [...document.querySelectorAll('[role=switch]')].map((input) => {
            const start = performance.now();
            input.click();
            document.body.offsetHeight; // laid out
            return performance.now() - start;
        })"""
    )
    assert len(milliseconds) == 14
    assert statistics.median(milliseconds) < 100


def test_advice_of_taylor_and_of_the_oracle(open_page: Open) -> None:
    tab, facts = open_page(), shipped()
    for n in range(1, 12):
        tab.get_by_role("button", name="Taylor says").click()
        assert plan_of(tab) == lowest(facts.scores, n)
    tab.get_by_role("button", name="Taylor says").press("Enter")  # a click waits until a button is enabled
    assert plan_of(tab) == lowest(facts.scores, 11)
    assert "each layer has one left" in tab.get_by_role("status").inner_text()
    tab.get_by_role("button", name="Open all").click()
    closed = 0
    for _ in range(11):
        tab.get_by_role("button", name="Oracle says").click()
        free = [closed | 1 << i for i in range(14) if not closed >> i & 1]
        whole = [c for c in free if all(len(facts.plan(c).remove.get(n, ())) < k for n, k in facts.layers.items())]
        closed = facts.number(plan_of(tab))
        assert closed in whole
        assert facts.loss[closed] == min(facts.loss[whole])


def test_random_undo_and_the_best_of_its_size(open_page: Open) -> None:
    tab, facts = open_page(), shipped()
    for n in range(1, 12):
        tab.get_by_role("button", name="Random").click()
        plan = plan_of(tab)
        assert plan.n_filters == n
        assert all(len(plan.remove.get(name, ())) < k for name, k in facts.layers.items())
    tab.get_by_role("button", name="Undo").click()
    assert plan_of(tab).n_filters == 10
    tab.get_by_role("button", name="Best of this size").click()
    assert plan_of(tab) == facts.plan(facts.best[10])
    assert numbers(tab)["Percentile"] == "100.0 %"
    assert numbers(tab)["Accuracy"] == numbers(tab)["Best of its size"]


def test_an_empty_layer_has_its_accuracy_and_no_costs(open_page: Open) -> None:
    tab = open_page()
    close(tab, Plan({"network.0": (0, 1)}))
    shown = numbers(tab)
    assert (shown["Parameters"], shown["MACs"], shown["Percentile"]) == ("–", "–", "–")
    assert shown["Accuracy"] == f"{shipped().correct[3] / 50:.2f} %"
    assert "A layer is empty" in tab.get_by_role("status").inner_text()


def test_changed_answers_and_maps_are_pythons(open_page: Open, baseline: nn.Module, splits: Splits) -> None:
    tab, shown = open_page(), maker.pictures(splits.validation)
    close(tab, CHAPTER_4)
    now, whole = predict(mask(baseline, CHAPTER_4), shown), predict(baseline, shown)
    wanted = [
        f"{CLASS_NAMES[shown.targets[i]]}: {CLASS_NAMES[whole[i]]} → {CLASS_NAMES[now[i]]}"
        for i in (now != whole).nonzero().flatten().tolist()
    ]
    assert tab.locator(".gb-changed button").all_inner_texts() == wanted
    tab.locator(".gb-changed button").last.click()
    last = (now != whole).nonzero().flatten().tolist()[-1]
    assert f"Picture {last + 1} of 20" in tab.locator(".gb-caption").inner_text()
    assert f"The network says {CLASS_NAMES[now[last]]}" in tab.locator(".gb-caption").inner_text()
    eyes, closed = Pictures(baseline, shown), shipped().number(CHAPTER_4)
    maps, first = [], 0
    for n in shipped().layers.values():
        most = max(map_.max() for map_ in eyes.maps(last, 0)[first : first + n])
        maps += [grey(map_, most) for map_ in eyes.maps(last, closed)[first : first + n]]
        first += n
    drawn = tab.evaluate(
        """() => [...document.querySelectorAll('.gb-filter canvas')].map((canvas) =>
            [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0))"""
    )
    for mine, theirs in zip(drawn, maps, strict=True):
        assert np.abs(np.array(mine, int).reshape(28, 28) - theirs).max() <= 1


def test_everything_works_with_the_keyboard(open_page: Open) -> None:
    tab = open_page()
    focused: list[str] = []
    for _ in range(6 + 2 + 14):
        tab.keyboard.press("Tab")
        name, outline = tab.evaluate(
            """() => { const e = document.activeElement; const l = e.closest('label') ?? e;
                return [e.getAttribute('aria-label') ?? e.textContent, getComputedStyle(l).outlineWidth]; }"""
        )
        focused.append(name)
        assert outline == "3px", f"{name} shows no focus"
        if name == "gate of filter 4 of network.4":
            tab.keyboard.press("Space")
    assert len(set(focused)) == 22
    assert plan_of(tab) == Plan({"network.4": (4,)})
    tab.get_by_role("button", name="Taylor says").focus()
    tab.keyboard.press("Enter")
    assert plan_of(tab) == Plan({"network.2": (2,), "network.4": (4,)})
    assert tab.evaluate("document.activeElement.textContent") == "Taylor says"  # the focus stays
    assert tab.get_by_role("status").get_attribute("role") == "status"


def test_a_chosen_picture_is_read_out(open_page: Open) -> None:
    tab = open_page()
    close(tab, CHAPTER_4)
    button = tab.locator(".gb-changed button").nth(1)
    button.focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.textContent") == button.inner_text()
    status = tab.get_by_role("status")
    assert re.fullmatch(r"Picture \d+ of 20: .+\. The network says .+\.", status.inner_text())
    close(tab, Plan({"network.0": (1,)}))
    assert "9 of 14 gates closed" in status.inner_text()


def test_knobs_have_the_systems_own_colours(open_page: Open) -> None:
    tab = open_page(forced_colors="active")
    close(tab, Plan({"network.0": (0,)}))
    colours = tab.evaluate(
        """() => [...document.querySelectorAll('[role=switch]')].map((input) =>
            [null, '::before'].map((part) => getComputedStyle(input, part).backgroundColor))"""
    )
    assert [ground for ground, knob in colours if knob == ground] == []


@pytest.mark.parametrize("width", [390, 320])
def test_a_phones_width_holds_the_board(open_page: Open, width: int) -> None:
    tab = open_page(viewport={"width": width, "height": 800})
    close(tab, CHAPTER_4)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = tab.evaluate(
        """() => [...document.querySelectorAll('.gate-board *:not(.gb-hidden)')].filter((element) =>
            element.getBoundingClientRect().right > innerWidth + 1
            || (getComputedStyle(element).display !== 'inline' && element.scrollWidth > element.clientWidth + 1)
        ).map((element) => element.className || element.tagName)"""
    )
    assert wide == []


@pytest.mark.parametrize(
    ("system", "theme", "dark"),
    [("light", None, False), ("dark", None, True), ("light", "dark", True), ("dark", "light", False)],
)
def test_light_and_dark_and_axe_finds_nothing_serious(
    open_page: Open, system: str, theme: str | None, dark: bool
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = open_page(color_scheme=system)
    if theme:
        tab.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    close(tab, CHAPTER_4)
    ground = tab.evaluate("getComputedStyle(document.querySelector('.gate-board')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) is dark
    found = axe.run(tab, options={"preload": False}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_two_boards_share_no_id(open_page: Open) -> None:
    tab = open_page()
    tab.evaluate("document.querySelector('[data-ready]').removeAttribute('data-gate-board')")
    tab.evaluate("document.querySelector('main').append(document.createElement('p'))")
    tab.evaluate("document.querySelector('main > p').dataset.gateBoard = ''")
    tab.add_script_tag(content=page.script())
    tab.wait_for_selector("p[data-ready]")
    ids = tab.evaluate("[...document.querySelectorAll('.gate-board [id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids)) == 2 * 2 * 14


# A stand-in for the model that JupyterLab gives a widget: it asks Python, as over a kernel's connection.
MODEL = """async (state) => {
    const bytes = (record) => Object.assign(record, { bytes: new DataView(new Uint8Array(record.bytes).buffer) });
    const listeners = {};
    const tell = (name) => (listeners[name] ?? []).forEach((listener) => listener());
    const answer = async () => {
        const view = await look(state.closed, state.picture);
        [view, ...view.changed.shown].forEach((seen) => bytes(seen.image));
        view.maps.forEach(bytes);
        state.view = view;
    };
    await answer();
    const model = {
        get: (name) => state[name],
        set: (values) => {
            const changed = Object.keys(values).filter((name) => state[name] !== values[name]);
            Object.assign(state, values);
            changed.forEach((name) => tell(`change:${name}`));
        },
        save_changes: () => answer().then(() => tell("change:view")),
        on: (name, listener) => (listeners[name] ??= []).push(listener),
        off: (name, listener) => (listeners[name] = listeners[name].filter((other) => other !== listener)),
    };
    window.fromPython = model.set;
    window.held = () => [state.closed, state.picture];
    window.listening = () => Object.values(listeners).flat().length;
    const { default: widget } = await import("/board.js");
    const el = () => document.querySelector("main").appendChild(document.createElement("div"));
    const leave = [];
    window.show = async () => leave.push(await widget.render({ model, el: el() }));
    window.leave = () => leave.forEach((left) => left());
    await show();
}"""


@pytest.fixture
def notebook(browser: Any, open_widget: Any) -> Iterator[Any]:
    """A page that shows the widget, as JupyterLab does; afterwards nobody listens, and no error was raised."""

    def look(closed: int, picture: int) -> Any:
        open_widget.closed, open_widget.picture = closed, picture
        return json.loads(json.dumps(open_widget.view, default=list))  # bytes as lists of numbers

    files = {
        "board.js": ("text/javascript", open_widget._esm),
        "": ("text/html", f"<style>{open_widget._css}</style><main>"),
    }
    tab = browser.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.expose_function("look", look)

    def serve(route: Any) -> None:
        kind, body = files[route.request.url.removeprefix("http://board.test/")]
        route.fulfill(content_type=kind, body=body)

    tab.route("**", serve)  # nothing goes over a network
    tab.goto("http://board.test/")
    tab.evaluate(MODEL, {"facts": open_widget.facts, "n_pictures": open_widget.n_pictures, "closed": 0, "picture": 0})
    yield tab
    tab.evaluate("leave()")
    assert tab.evaluate("listening()") == 0
    tab.close()
    assert problems == []


def test_the_widget_follows_python(notebook: Any, open_widget: Any, baseline: nn.Module, splits: Splits) -> None:
    tab = notebook
    assert numbers(tab)["Accuracy"] == "89.60 %"
    close(tab, Plan({"network.4": (0, 7)}))
    tab.get_by_role("button", name="Next picture").click()
    tab.wait_for_function("document.querySelector('.gb-caption').innerText.includes('Picture 2 of 200')")
    assert open_widget.plan == Plan({"network.4": (0, 7)})
    assert numbers(tab) == expected(open_widget.plan, baseline, splits)
    changed = open_widget.view["changed"]
    assert tab.locator(".gb-changed button").count() == len(changed["shown"])
    assert f"{changed['n']} of 200 answers differ" in tab.locator(".gb-below").inner_text()
    drawn = tab.evaluate("[...document.querySelector('.gb-image').getContext('2d').getImageData(0, 0, 28, 28).data]")
    assert drawn[::4] == list(open_widget.view["image"]["bytes"])

    tab.evaluate(f"fromPython({{ closed: {shipped().number(CHAPTER_4)} }})")
    assert plan_of(tab) == CHAPTER_4
    assert "Set elsewhere" in tab.get_by_role("status").inner_text()


def test_focus_moves_where_an_answer_no_longer_differs(notebook: Any) -> None:
    close(notebook, CHAPTER_4)
    notebook.locator(".gb-changed button").last.focus()
    notebook.evaluate("fromPython({ closed: 0 })")
    notebook.get_by_text("0 of 200 answers differ").wait_for(timeout=5000)
    assert notebook.evaluate("document.activeElement.className") == "gb-caption"


def test_a_board_shown_twice_is_the_same_board(notebook: Any) -> None:
    notebook.evaluate("show()")
    views = first, second = [notebook.locator(".gate-board").nth(i) for i in range(2)]

    def both_show(picture: int) -> None:
        for view in views:
            view.locator(".gb-caption", has_text=f"Picture {picture} of 200").wait_for(timeout=5000)

    first.get_by_role("button", name="Next picture").click()
    both_show(2)
    second.get_by_role("button", name="Next picture").click()
    both_show(3)
    close(first, CHAPTER_4)
    assert plan_of(second) == CHAPTER_4
    assert "Set elsewhere." in second.get_by_role("status").inner_text()
    for view in views:
        view.get_by_text(re.compile(r"^[1-9]\d* of 200 answers differ")).wait_for(timeout=5000)
    notebook.evaluate("fromPython({ closed: 3, picture: 6 })")
    both_show(7)
    assert notebook.evaluate("held()") == [3, 6]
    assert shipped().number(plan_of(first)) == shipped().number(plan_of(second)) == 3


def test_the_page_says_what_is_measured_and_on_what(open_page: Open) -> None:
    text = open_page().locator(".gb-measured").inner_text()
    assert "5,000 validation images" in text
    assert "nothing is trained after" in text
    assert "committed baseline" in text


# ------------------------------------------------------------------------------------------------- the page's sentences


def test_the_pages_numbers_are_the_shipped_ones() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "site" / "board.md").read_text(encoding="utf-8"))
    facts = shipped()
    assert "all 16,384 of them" in text
    assert "14 filters" in text
    assert f"{facts.costs[1, 2, 3][0]:,} parameters, {facts.correct[facts.number(CHAPTER_4)] / 50:.2f} % right" in text
    assert f"as many filters, and keeps {facts.correct[facts.best[8]] / 50:.2f} %" in text
    assert 35_000 < len(shipped_json()) < 45_000  # about forty kilobytes

    loss = {n: facts.loss[facts.number(Plan({"network.4": n}))] - facts.loss[0] for n in [(0,), (7,), (0, 7)]}
    assert loss[0, 7] > 3 * (loss[0,] + loss[7,])  # they stand in for each other
    assert facts.correct[2] / 50 < 20  # filter 1 of network.0, the wrong one first
    greedy = [0]
    for _ in range(9):
        rest = [greedy[-1] | 1 << i for i in range(14) if not greedy[-1] >> i & 1]
        whole = [c for c in rest if all(len(facts.plan(c).remove.get(n, ())) < k for n, k in facts.layers.items())]
        greedy.append(min(whole, key=lambda c: facts.loss[c]))
    correct = facts.correct.astype(int)
    assert correct[facts.best[8]] - correct[greedy[8]] > 150  # more than three points below
    assert correct[greedy[9]] > correct[greedy[8]]  # one filter less, more pictures right
    free = lowest(facts.scores, 3)
    assert facts.correct[facts.number(free)] == facts.correct[0]
    one_shot = [facts.correct[facts.number(lowest(facts.scores, n))] for n in range(6)]
    assert correct[0] - one_shot[5] > 50 >= correct[0] - correct[greedy[5]]  # the oracle gets one filter further


def test_the_board_belongs_to_no_module_of_the_flow() -> None:
    for path in (ROOT / "cnnprune_utils").glob("*.py"):
        assert not re.search(r"import.*\bboard\b|\.board\b", path.read_text(encoding="utf-8")), path.name
