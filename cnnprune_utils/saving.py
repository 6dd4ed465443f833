"""The book's network, given by its widths; and models saved as data: safetensors, with the architecture as JSON."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Sequence
from itertools import pairwise
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


class CNN(nn.Module):
    """Convolutions of 3x3 with padding 1, each followed by a ReLU; then one linear layer on all positions.

    Args:
        widths: filters of each convolution.
        in_channels: channels of the images.
        image_size: their height and width, as one number or (height, width).
        n_classes: outputs.

    ``network`` is the ``nn.Sequential`` of the layers. The properties read them, so they hold for a pruned copy too.

    Raises:
        ValueError: no width, or a number below 1.
    """

    def __init__(
        self,
        widths: Sequence[int] = (2, 4, 8),
        *,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if not widths or min(*widths, in_channels, height, width, n_classes) < 1:
            raise ValueError(
                f"widths={tuple(widths)}, in_channels={in_channels}, image_size={image_size}, n_classes={n_classes}: "
                "there must be at least one width, and each number must be at least 1."
            )
        self._image_size = (height, width)
        layers: list[nn.Module] = []
        for before, after in pairwise((in_channels, *widths)):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * height * width, n_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, in_channels, height, width) to outputs (n, n_classes): logits, no softmax."""
        outputs: Tensor = self.network(images)
        return outputs

    @property
    def widths(self) -> tuple[int, ...]:
        """The filters of each convolution."""
        return tuple(conv.out_channels for conv in self._convolutions())

    @property
    def in_channels(self) -> int:
        return self._convolutions()[0].in_channels

    @property
    def image_size(self) -> int | tuple[int, int]:
        """One number for square images, else (height, width). No layer knows it, and no pruning changes it."""
        height, width = self._image_size
        return height if height == width else (height, width)

    @property
    def n_classes(self) -> int:
        return next(m.out_features for m in reversed(self.network) if isinstance(m, nn.Linear))

    def _convolutions(self) -> list[nn.Conv2d]:
        return [m for m in self.network if isinstance(m, nn.Conv2d)]


def save_model(model: nn.Module, path: str | os.PathLike[str], *, plan: Plan | None = None) -> None:
    """Write ``model`` to ``path``, in one step: what stood there stays whole until the new file is.

    Args:
        model: a :class:`CNN` of any widths; or any other network, with its plan.
        path: by custom ``*.safetensors``; its folder exists.
        plan: what was pruned, in the numbering of the unpruned network. A :class:`CNN` needs none, and keeps none.

    Raises:
        ValueError: the model is not a :class:`CNN`, and there is no plan.
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


def load_model(path: str | os.PathLike[str], *, base: nn.Module | None = None) -> nn.Module:
    """The model that :func:`save_model` wrote, on the CPU, with its dtypes. Loading runs no code from the file.

    Args:
        path: the file.
        base: the unpruned network, for a file that holds a plan: a copy of it is pruned and gets the numbers of the
            file (and keeps the train/eval and ``requires_grad`` flags of ``base``); ``base`` is unchanged. A
            :class:`CNN` needs none.

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
                model: nn.Module = CNN(**header["architecture"])
            model.load_state_dict(tensors, assign=True)
            return model
        plan = Plan.from_json(json.dumps(header["plan"]))
        model = (prune(base, plan) if plan.remove else copy.deepcopy(base)).cpu()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in tensors:
                tensor.data = tensor.data.to(tensors[name].dtype)
        safetensors.torch.load_model(model, path)
        return model
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        what = "its own header" if "architecture" in header else f"this {type(base).__name__} as base"
        raise ValueError(f"the tensors of {path} do not fit {what}: {error}") from error


def _architecture(model: nn.Module) -> dict[str, Any] | None:
    """The arguments that build this :class:`CNN`; None for any other network, and for a CNN changed by hand."""
    if type(model) is not CNN:
        return None
    arguments = {name: getattr(model, name) for name in ("widths", "in_channels", "image_size", "n_classes")}
    with torch.device("meta"):
        same = CNN(**arguments)
    alike = repr(same) == repr(model) and same.state_dict().keys() == model.state_dict().keys()
    return arguments if alike else None


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
