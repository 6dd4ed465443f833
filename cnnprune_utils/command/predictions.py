"""Predictions for pictures: files in, predictions out, as text or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..book.fashion_mnist import CLASS_NAMES
from ..training import evaluating
from .image_files import PictureError, listed, printable, read

__all__ = ["Failure", "Prediction", "as_json", "as_text", "predict_files", "predict_images"]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture.

    ``index`` and ``label`` are the likeliest class; ``probabilities`` has those of all classes (softmax), in
    the order of :data:`cnnprune_utils.book.CLASS_NAMES`; ``note`` says how the picture was
    changed, and is empty for most.
    """

    path: str
    label: str
    index: int
    probabilities: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class Failure:
    """A file or folder that cannot be predicted, and the reason, in one line."""

    path: str
    message: str


@dataclass(frozen=True, eq=False)
class _Picture:
    path: str
    image: Tensor
    note: str


def predict_files(
    model: nn.Module,
    paths: Iterable[str | os.PathLike[str]],
    *,
    batch_size: int = 500,
    invert: bool | None = None,
) -> Iterator[Prediction | Failure]:
    """Yield a prediction for each picture, in order, or a :class:`Failure` for one that cannot be read.

    Args:
        model: maps (n, 1, 28, 28) to (n, 10); on any device; unchanged.
        paths: PNG and JPEG files, and folders of them: see :func:`.image_files.listed`.
        batch_size: pictures in one batch; no more are in memory at a time.
        invert: whether to make light dark and dark light; None: if the picture's corners are light.

    Raises:
        ValueError: ``batch_size`` is below 1, or :func:`predict_images` refuses the model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    return _predicted(model, _pictures(paths, invert), batch_size)


def _pictures(paths: Iterable[str | os.PathLike[str]], invert: bool | None) -> Iterator[_Picture | Failure]:
    for path in paths:
        try:
            files = listed(path)
        except PictureError as error:
            yield Failure(os.fspath(path), str(error))
            continue
        for file in files:
            try:
                image, note = read(file, invert=invert)
            except PictureError as error:
                yield Failure(file, str(error))
            else:
                yield _Picture(file, image, note)


def _predicted(
    model: nn.Module, pictures: Iterator[_Picture | Failure], batch_size: int
) -> Iterator[Prediction | Failure]:
    waiting: list[_Picture | Failure] = []
    n_pictures = 0
    for picture in pictures:
        waiting.append(picture)
        n_pictures += isinstance(picture, _Picture)
        if n_pictures == batch_size:
            yield from _answers(model, waiting)
            waiting, n_pictures = [], 0
    yield from _answers(model, waiting)


def _answers(model: nn.Module, waiting: Sequence[_Picture | Failure]) -> list[Prediction | Failure]:
    """Return the results of ``waiting`` in their order, with all pictures predicted in one batch."""
    readable = [entry for entry in waiting if isinstance(entry, _Picture)]
    if not readable:
        return [entry for entry in waiting if isinstance(entry, Failure)]
    images = torch.stack([entry.image for entry in readable])
    predictions = iter(predict_images(model, images, [e.path for e in readable], [e.note for e in readable]))
    return [entry if isinstance(entry, Failure) else next(predictions) for entry in waiting]


def predict_images(
    model: nn.Module, images: Tensor, names: Sequence[str], notes: Sequence[str] | None = None
) -> list[Prediction]:
    """Return the predictions for ``images`` (n, 1, 28, 28), in one batch; ``names`` take the place of paths.

    Raises:
        ValueError: the model does not return ten finite numbers for each image.
    """
    device = next((parameter.device for parameter in model.parameters()), images.device)
    with evaluating(model), torch.no_grad():
        outputs = model(images.to(device)).cpu().double()
    if outputs.shape != (len(images), len(CLASS_NAMES)):
        raise ValueError(
            f"the model returns outputs of shape {tuple(outputs.shape)} for {len(images)} images; "
            f"it must return {len(CLASS_NAMES)} numbers for each, one per class of Fashion-MNIST"
        )
    if not outputs.isfinite().all():
        raise ValueError("the model's outputs are not all finite: its training went wrong, or its file is damaged")
    predictions = []
    for name, shares, note in zip(names, outputs.softmax(1).tolist(), notes or [""] * len(images), strict=True):
        index = max(range(len(shares)), key=shares.__getitem__)
        probabilities = dict(zip(CLASS_NAMES, shares, strict=True))
        predictions.append(Prediction(name, CLASS_NAMES[index], index, probabilities, note))
    return predictions


def as_text(result: Prediction | Failure, *, classes: int = 3) -> str:
    """Return one line: the path, the likeliest ``classes`` with their probabilities, and the note; or the error."""
    if isinstance(result, Failure):
        return f"{printable(result.path)}: {result.message}"
    likeliest = sorted(result.probabilities.items(), key=lambda item: -item[1])[:classes]
    shares = ", ".join(f"{label} {share:.1%}" for label, share in likeliest)
    return f"{printable(result.path)}: {shares}" + (f" ({result.note})" if result.note else "")


def as_json(results: Iterable[Prediction | Failure]) -> str:
    """Return a JSON array with an object per result: the fields of a prediction, or ``path`` and ``error``."""
    return json.dumps([_record(result) for result in results], indent=2, allow_nan=False)


def _record(result: Prediction | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"path": result.path, "error": result.message}
    return asdict(result)
