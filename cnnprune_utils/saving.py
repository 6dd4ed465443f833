"""Models saved as data: safetensors, with what is needed to build the network again as JSON in the header."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .files import write
from .plan import Plan
from .surgery import prune

FORMAT = 1
_KEY = "cnnprune_utils"  # of our JSON in the header; only one key, since their order in a file is not fixed


def save_model(model: nn.Module, path: str | os.PathLike[str], *, plan: Plan | None = None) -> None:
    """Write ``model`` to ``path``, atomically: the old file stays whole until the new one is.

    Args:
        model: the book's :class:`.book.cnn.CNN` of any widths; or any other network, with its plan.
        path: by convention ``*.safetensors``; its folder exists.
        plan: what was pruned, in the numbering of the unpruned network. The book's CNN needs none, and keeps none.

    Raises:
        ValueError: the model is not the book's CNN, and there is no plan.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save {path.name}: there is no folder {path.parent}; make it first")
    write(path, to_bytes(model, plan=plan))


def to_bytes(model: nn.Module, *, plan: Plan | None = None) -> bytes:
    """What :func:`save_model` writes; raises as it does."""
    architecture = _architecture(model)
    header: dict[str, Any] = {"format": FORMAT, "model": type(model).__name__}
    if architecture is not None:
        header["architecture"] = architecture
    elif plan is not None:
        header["plan"] = json.loads(plan.to_json())
    else:
        raise ValueError(
            f"a {type(model).__name__} is loaded by pruning the unpruned network again (load_model's base), so its "
            "file needs the plan: save_model(model, path, plan=plan), or plan=Plan({}) if nothing was removed."
        )
    # safetensors writes files only, and these for their owner alone; a folder of its own, so that nobody meets them.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        safetensors.torch.save_model(model, str(file), metadata={_KEY: json.dumps(header)})
        return file.read_bytes()


def load_model(path: str | os.PathLike[str], *, base: nn.Module | None = None, example: Any = None) -> nn.Module:
    """The model that :func:`save_model` wrote, on the CPU, with its dtypes. Loading runs no code from the file.

    A file holds no train/eval flags. The book's CNN comes in train mode, as every new module does; another network has
    the flags of ``base``: call ``eval()`` before you use it.

    Args:
        path: the file.
        base: the unpruned network, for a file that holds a plan: a copy of it is pruned and gets the numbers of the
            file (and keeps the train/eval and ``requires_grad`` flags of ``base``); ``base`` is unchanged. The
            book's CNN needs none.
        example: inputs that ``base`` takes: see :func:`.structure.prunable_layers`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not from :func:`save_model` or from a newer one, or it does not fit ``base``.
    """
    path = Path(path)
    header, tensors = _read(path)
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}, and this cnnprune_utils reads up to {FORMAT}: update it."
        )
    if "architecture" not in header and base is None:
        raise ValueError(
            f"{path} holds a {header.get('model')} as what its pruning left: load_model(path, base=model) needs the "
            "unpruned model, with any weights."
        )
    try:
        if base is None or "architecture" in header:
            with torch.device("meta"):  # no memory, and no random number is drawn
                model: nn.Module = _book_cnn()(**header["architecture"])
            model.load_state_dict(tensors, assign=True)
            return model
        plan = Plan.from_json(json.dumps(header["plan"]))
        model = (prune(base, plan, example) if plan.remove else copy.deepcopy(base)).cpu()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in tensors:
                tensor.data = tensor.data.to(tensors[name].dtype)
        safetensors.torch.load_model(model, path)
        return model
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        what = "its own header" if "architecture" in header else f"this {type(base).__name__} as base"
        raise ValueError(f"the tensors of {path} do not fit {what}: {error}") from error


def _architecture(model: nn.Module) -> dict[str, Any] | None:
    """The arguments that build the book's CNN; None for any other network, and for a CNN changed by hand."""
    if type(model) is not _book_cnn():
        return None
    arguments = {name: getattr(model, name) for name in ("widths", "in_channels", "image_size", "n_classes")}
    with torch.device("meta"):
        same = _book_cnn()(**arguments)
    alike = repr(same) == repr(model) and same.state_dict().keys() == model.state_dict().keys()
    return arguments if alike else None


def _book_cnn() -> type[nn.Module]:
    """The one class whose files hold an architecture. Imported here: the package does not depend on the book."""
    from .book.cnn import CNN

    return CNN


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our header and copies of the tensors, without a look at what they mean."""
    path.open("rb").close()  # raises the usual errors for what is not there or is no file
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file ({error}). Save or fetch it again.") from error
    try:
        header = json.loads(text or "")
        if isinstance(header["format"], int):
            return header, tensors
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(
        f"{path} is a safetensors file, but save_model did not write it: its header holds no architecture."
    )
