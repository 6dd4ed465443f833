"""The Python and the commands in README run, and its figure is that of chapter 4."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import runpy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from cnnprune_utils.command import options, parsing
from cnnprune_utils.command.settings import Settings
from cnnprune_utils.loop import Compressed
from cnnprune_utils.saving import load_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the names that the blocks of Python define, run in order, the outputs, and the values of last lines."""
    folder, found = tmp_path_factory.mktemp("readme"), dict[str, Any]()
    torch.manual_seed(0)
    printed, values = [], []
    with contextlib.chdir(folder):
        for block, _ in BLOCKS:
            *lines, last = ast.parse(block).body
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(ast.Module(lines, []), "README.md", "exec"), found)
                if isinstance(last, ast.Expr):
                    values.append(eval(compile(ast.Expression(last.value), "README.md", "eval"), found))
                else:
                    exec(compile(ast.Module([last], []), "README.md", "exec"), found)
            printed.append(output.getvalue())
    return {**found, "folder": folder, "printed": printed, "values": values}


def test_ten_lines_prune_a_resnet18(names: dict[str, Any]) -> None:
    lines = [line for line in BLOCKS[0][0].splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import", "from"))]) <= 10
    small, model = names["small"], names["model"]
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in model.parameters())
    loaded = load_model(names["folder"] / "small.safetensors", base=resnet18(num_classes=10)).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), small.eval()(images), rtol=0, atol=0)


def test_all_imports_come_from_the_front_door() -> None:
    imports = re.findall(r"^(?:from|import) (\S+)", "\n".join(block for block, _ in BLOCKS), flags=re.MULTILINE)
    ours = {name for name in imports if name.startswith("cnnprune_utils")}
    assert ours == {"cnnprune_utils"}


def test_what_is_printed_is_what_it_shows(names: dict[str, Any]) -> None:
    assert names["printed"] == [shown for _, shown in BLOCKS]
    assert any(names["printed"])


def test_pruned_and_closed_agree(names: dict[str, Any]) -> None:
    (apart,) = (value for value in names["values"] if isinstance(value, float))
    assert apart < 1e-4


def test_widths_are_multiples_and_conv1_is_whole(names: dict[str, Any]) -> None:
    small, smaller, more = (names[name] for name in ("small", "smaller", "more"))
    assert 0 < more.n_filters <= 200
    assert "conv1" not in more.remove
    assert smaller.conv1.out_channels == small.conv1.out_channels
    assert {smaller.get_submodule(name).out_channels % 8 for name in more.remove} == {0}
    loaded = load_model(names["folder"] / "smaller.safetensors", base=resnet18(num_classes=10)).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), smaller.eval()(images), rtol=0, atol=0)


def test_the_budget_is_met(names: dict[str, Any]) -> None:
    found = names["found"]
    assert isinstance(found, Compressed)
    assert found.history["parameters"].iloc[-1] <= 9_000_000 < found.history["parameters"].iloc[-2]


def test_every_command_in_it_is_one() -> None:
    lines = re.findall(r"^cnnprune (.*)$", README, flags=re.MULTILINE)
    assert lines
    for line in lines:
        options.parser().parse_args(line.split())
    assert set(re.findall(r"--config (\w+)", README)) <= set(parsing.shipped())
    settings = {f"{group}.{name}" for group, values in asdict(Settings()).items() if group != "seed" for name in values}
    assert set(re.findall(r"--(\w+\.\w+)", README)) <= settings


def test_the_figure_is_that_of_chapter_8() -> None:
    site = runpy.run_path(str(ROOT / "site" / "readme_figure.py"))
    assert site["FIGURE"].read_bytes() == site["first_picture"](ROOT / "notebooks" / "08_all_subnetworks.ipynb")
