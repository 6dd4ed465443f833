"""What README promises beyond its two commands: the ten lines run, and the figure is the chapter's."""

from __future__ import annotations

import re
import runpy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from cnnprune_utils.command import options, parsing, store
from cnnprune_utils.command.settings import Settings
from cnnprune_utils.loop import Compressed
from cnnprune_utils.saving import load_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_prune_a_resnet18_its_file_loads_and_a_budget_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, budget = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import", "from"))]) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    exec(compile(budget, "README.md", "exec"), names)
    small, model = names["small"], names["model"]
    assert isinstance(small, torch.nn.Module)
    assert isinstance(model, torch.nn.Module)
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in model.parameters())
    found = names["found"]
    assert isinstance(found, Compressed)
    assert found.history["parameters"].iloc[-1] <= 9_000_000 < found.history["parameters"].iloc[-2]
    loaded = load_model("small.safetensors", base=resnet18(num_classes=10)).eval()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded(images), small.eval()(images), rtol=0, atol=0)


def test_the_commands_in_it_exist_with_their_flags_and_files() -> None:
    lines = re.findall(r"^cnnprune (.*)$", README, flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["run", "predict", "ui"]
    for line in lines:
        options.parser().parse_args(line.split())
    assert set(re.findall(r"--config (\w+)", README)) == set(parsing.shipped())
    settings = {f"{group}.{name}" for group, values in asdict(Settings()).items() if group != "seed" for name in values}
    assert set(re.findall(r"--(\w+\.\w+)", README)) <= settings
    assert "(notebooks/appendix_mlflow.ipynb)" in README
    assert f"`{store.DEFAULT.removeprefix('sqlite:///')}`" in README


def test_the_figure_is_the_one_that_chapter_4_ends_with() -> None:
    site = runpy.run_path(str(ROOT / "site" / "readme_figure.py"))
    figure = site["FIGURE"]
    assert f"({figure.relative_to(ROOT)})" in README
    assert figure.read_bytes() == site["last_picture"](ROOT / "notebooks" / "04_prune.ipynb")
