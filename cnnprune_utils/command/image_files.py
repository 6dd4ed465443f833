"""Picture files in the form of Fashion-MNIST's images: grey, 28 x 28, light on dark."""

from __future__ import annotations

import os
import stat
import warnings

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError
from torch import Tensor

from ..book.fashion_mnist import IMAGE_SIZE

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")  # what a folder's pictures are called

Pixels = npt.NDArray[np.uint8]
AnyPath = str | os.PathLike[str]


class PictureError(ValueError):
    """A file cannot be read as a picture; the message says why, in one line, without the path."""


def listed(path: AnyPath) -> list[str]:
    """Return the pictures in a folder, sorted by name; of a path that is not a folder, the path itself.

    Pictures end in .png, .jpg or .jpeg. Hidden files are left out, and folders below it are not entered.

    Raises:
        PictureError: the folder cannot be listed, or has no picture.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        return [path]
    try:
        with os.scandir(path) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and not entry.is_dir()
            )
    except OSError as error:
        raise PictureError(_reason(error)) from error
    if not names:
        raise PictureError(f"a folder without pictures: nothing in it ends in {', '.join(SUFFIXES)}")
    return [os.path.join(path, name) for name in names]


def read(path: AnyPath, *, invert: bool | None = None) -> tuple[Tensor, str]:
    """Return a PNG or JPEG file in the form of Fashion-MNIST's images, and a note on unexpected changes to it.

    Grey; turned as its camera says; scaled until its longer side has 28 pixels, the shorter one padded with the
    background's shade; light on dark. An image of the data set, written as a 28 x 28 PNG, comes back as it was.

    Args:
        path: a file.
        invert: whether to make light dark and dark light; None: if the picture's four corners are light, on average.

    Returns:
        float32 (1, 28, 28) in [0, 1], and the note, which may be empty.

    Raises:
        PictureError: the file is missing, unreadable, empty, damaged, too large, or neither PNG nor JPEG.
    """
    try:
        grey, transparent = _opened(path)
        longer = max(grey.size)
        width, height = (max(1, round(IMAGE_SIZE * side / longer)) for side in grey.size)
        # each pixel the mean of an area: of the five ways, the one that brings enlarged test images back best
        pixels: Pixels = np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    except Exception as error:  # a broken file can make Pillow's decoders raise anything
        raise PictureError(_reason(error)) from error
    dark_on_light = bool(_corners(pixels).mean() > 127.5)
    inverted = dark_on_light if invert is None else invert
    if inverted:
        pixels = 255 - pixels
    notes = [
        transparent,
        ("dark on light: inverted" if dark_on_light else "inverted") if inverted else "",
        "one shade everywhere" if pixels.min() == pixels.max() else "",
    ]
    # the same two steps as for the data set, so that both round alike
    return torch.from_numpy(_padded(pixels)).unsqueeze(0).float().div_(255), "; ".join(filter(None, notes))


def _opened(path: AnyPath) -> tuple[Image.Image, str]:
    """Return the picture in mode L, in its own size, and a note if parts of it are transparent."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device might be read for ever
        raise PictureError("not a file but a folder, pipe or device")
    if status.st_size == 0:
        raise PictureError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as one of a damaged date in a photograph
        # The header tells the size before anything is decoded; Pillow only warns where it could fill the memory.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return _grey(ImageOps.exif_transpose(image))


def _grey(image: Image.Image) -> tuple[Image.Image, str]:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert("L") cuts off at 255 in some versions of Pillow
        values = np.asarray(image).astype(np.int32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)), ""
    if not image.has_transparency_data:
        return image.convert("L"), ""
    image = image.convert("RGBA")
    grey, opacity = image.convert("L"), image.getchannel("A")
    shades = ImageStat.Stat(grey, mask=opacity)  # of what is not wholly transparent
    if shades.count[0] == 0:
        raise PictureError("every pixel is transparent")
    # The background gets the shade that shows the rest best.
    dark = shades.mean[0] < 127.5
    canvas = Image.new("L", image.size, 255 if dark else 0)
    canvas.paste(grey, mask=opacity)
    seen_through = np.asarray(opacity).min() < 255
    return canvas, f"transparent parts taken as {'white' if dark else 'black'}" if seen_through else ""


def _corners(pixels: Pixels) -> Pixels:
    """Return the pixels of the four corners, which show the background even if the object touches every side."""
    n = max(1, round(min(pixels.shape) / 10))
    return np.concatenate([pixels[:n, :n], pixels[:n, -n:], pixels[-n:, :n], pixels[-n:, -n:]])


def _padded(pixels: Pixels) -> Pixels:
    """Return the pixels centred in 28 x 28."""
    height, width = pixels.shape
    top, left = (IMAGE_SIZE - height) // 2, (IMAGE_SIZE - width) // 2
    margins = ((top, IMAGE_SIZE - height - top), (left, IMAGE_SIZE - width - left))
    return np.pad(pixels, margins, constant_values=int(np.median(_corners(pixels))))


def _reason(error: Exception) -> str:
    """Return a message for the person who has the file."""
    match error:
        case PictureError():
            return str(error)
        case FileNotFoundError():
            return "no such file or folder"
        case UnidentifiedImageError():
            return "not a PNG or JPEG image, or damaged at its beginning"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"too large: more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels; scale it down first"
        case MemoryError():
            return "too large for this machine's memory; scale it down first"
        case OSError(strerror=str(reason)):  # the system's own words: Permission denied, File name too long
            return reason
    return f"damaged or cut short: {printable([*str(error).splitlines(), type(error).__name__][0])}"


def printable(text: str) -> str:
    """Return the text on one line, escaped: file names can hold line breaks, colours, and bytes that are not text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
