"""Files to predictions: any picture comes as the network knows its images, and a bad file spoils no other."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnprune_utils.batches import Splits
from cnnprune_utils.book import CLASS_NAMES, checkpoint
from cnnprune_utils.command import image_files
from cnnprune_utils.command.image_files import PictureError, read
from cnnprune_utils.command.predictions import Failure, Prediction, as_json, as_text, predict_files, predict_images

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return checkpoint("baseline")


@pytest.fixture(scope="module")
def boot(splits: Splits) -> Image.Image:
    """Test image 0, an ankle boot, with bytes for pixels."""
    return pixels_of(splits.test.inputs[0])


def pixels_of(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image[0] * 255).round().byte().numpy())


def tensor_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).float().div(255)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def failure(model: nn.Module, path: Path) -> str:
    (result,) = predict_files(model, [path])
    assert isinstance(result, Failure)
    assert result.path == str(path)
    assert result.message
    assert "\n" not in result.message
    return result.message


# What becomes of a picture.


def test_a_png_of_an_image_reads_back_exactly(splits: Splits, tmp_path: Path) -> None:
    for i in range(0, 10_000, 20):
        tensor, note = read(saved(pixels_of(splits.test.inputs[i]), tmp_path / "image.png", compress_level=1))
        assert torch.equal(tensor, splits.test.inputs[i]), f"test image {i}"
        assert note == ""


def test_only_negatives_look_dark_on_light(splits: Splits) -> None:
    for split in (splits.train, splits.validation, splits.test):
        corners = [split.inputs[:, 0, y, x] for y in (slice(3), slice(-3, None)) for x in (slice(3), slice(-3, None))]
        means = torch.cat(corners, 1).mean((1, 2))
        assert means.max() < 0.45
        assert image_files._corners(split.inputs[7, 0].numpy()).mean() == pytest.approx(means[7].item())


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_every_png_mode_gives_one_tensor(mode: str, boot: Image.Image, tmp_path: Path) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.array(boot).astype(np.uint16) * 257)
        assert image.mode == mode
    else:
        image = boot.convert(mode)
    tensor, note = read(saved(image, tmp_path / "boot.png"))
    assert torch.equal(tensor[0], tensor_of(boot))
    assert note == ""


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_gives_nearly_the_same(mode: str, boot: Image.Image, tmp_path: Path) -> None:
    tensor, note = read(saved(boot.convert("RGB").convert(mode), tmp_path / "boot.jpeg", quality=95))
    assert (tensor[0] - tensor_of(boot)).abs().mean() < 0.02
    assert note == ""


def test_colours_become_grey_by_luminance(tmp_path: Path) -> None:
    for colour, grey in (("red", 76), ("lime", 150), ("blue", 29)):
        image = Image.new("RGB", (28, 28), "black")
        image.paste(colour, (5, 5, 23, 23))
        tensor, _ = read(saved(image, tmp_path / "square.png"))
        assert round(tensor[0, 14, 14].item() * 255) == grey


def test_two_colours_are_enough(boot: Image.Image, tmp_path: Path) -> None:
    black_and_white = boot.convert("1", dither=Image.Dither.NONE)
    tensor, _ = read(saved(black_and_white, tmp_path / "boot.png"))
    assert torch.equal(tensor[0], (tensor_of(boot) > 0.5).float())


def test_dark_on_light_is_inverted_and_says_so(boot: Image.Image, tmp_path: Path) -> None:
    negative = saved(Image.fromarray(255 - np.array(boot)), tmp_path / "negative.png")
    tensor, note = read(negative)
    assert torch.equal(tensor[0], tensor_of(boot))
    assert note == "dark on light: inverted"
    assert torch.equal(read(negative, invert=True)[0], tensor)
    as_it_is, note = read(negative, invert=False)
    assert torch.allclose(as_it_is, 1 - tensor)
    assert note == ""


def test_light_on_dark_stays_unless_asked(boot: Image.Image, tmp_path: Path) -> None:
    path = saved(boot, tmp_path / "boot.png")
    tensor, note = read(path, invert=True)
    assert torch.allclose(tensor[0], 1 - tensor_of(boot))
    assert note == "inverted"


def test_large_pictures_are_averaged(boot: Image.Image, tmp_path: Path) -> None:
    enlarged = boot.resize((280, 280), Image.Resampling.NEAREST)
    assert torch.equal(read(saved(enlarged, tmp_path / "boot.png"))[0][0], tensor_of(boot))


@pytest.mark.parametrize("shape", [(100, 50), (50, 100), (9, 3), (1, 1), (1, 60), (6000, 1)])
@pytest.mark.parametrize(("ground", "thing"), [(40, 230), (250, 10)])
def test_proportions_are_kept(shape: tuple[int, int], ground: int, thing: int, tmp_path: Path) -> None:
    height, width = shape
    pixels = np.full(shape, ground, np.uint8)
    pixels[height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None] = thing
    tensor, _ = read(saved(Image.fromarray(pixels), tmp_path / "picture.png"))
    assert tensor.shape == (1, 28, 28)
    assert tensor.dtype == torch.float32
    if min(shape) >= 3:  # else the thing is all there is
        dark = ground if ground < 128 else 255 - ground
        inside = tensor[0] > 0.5
        assert inside.any(1).sum().item() / inside.any(0).sum().item() == pytest.approx(height / width, rel=0.25)
        assert tensor[0, 0, 0].item() == pytest.approx(dark / 255)
        assert tensor.mean() < tensor.max()


def test_exif_orientation_is_applied(boot: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    lying = boot.transpose(Image.Transpose.ROTATE_90)
    assert torch.equal(read(saved(lying, tmp_path / "boot.png", exif=exif))[0][0], tensor_of(boot))


@pytest.mark.parametrize(("shade", "note"), [(240, "black"), (20, "white")])
@pytest.mark.parametrize("hidden", [0, 255])  # what a program left in the pixels that nobody sees
def test_transparent_parts_are_background(shade: int, note: str, hidden: int, tmp_path: Path) -> None:
    pixels = np.full((28, 28, 4), hidden, np.uint8)
    pixels[..., 3] = 0
    pixels[8:20, 8:20] = (shade, shade, shade, 255)
    tensor, said = read(saved(Image.fromarray(pixels), tmp_path / "cut_out.png"))
    light = shade if shade > 127 else 255 - shade
    assert (tensor[0, 8:20, 8:20] * 255).round().unique().tolist() == [light]
    assert tensor.sum() == pytest.approx(12 * 12 * light / 255, rel=1e-4)
    assert said.startswith(f"transparent parts taken as {note}")
    assert ("inverted" in said) == (note == "white")


def test_transparent_palette_is_background(tmp_path: Path) -> None:
    image = Image.new("P", (28, 28), 0)
    image.putpalette([200, 30, 30, 250, 250, 250])
    image.paste(1, (8, 8, 20, 20))
    tensor, note = read(saved(image, tmp_path / "palette.png", transparency=0))
    assert tensor[0, 0, 0] == 0
    assert round(tensor[0, 14, 14].item() * 255) == 250
    assert note == "transparent parts taken as black"


def test_a_picture_of_nothing_says_so(tmp_path: Path) -> None:
    assert "one shade everywhere" in read(saved(Image.new("L", (50, 50), 9), tmp_path / "blank.png"))[1]


# Files that are not pictures.


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    contents = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + contents


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(256, size=(90, 90)).astype(np.uint8))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "the file is empty"),
        (b"Not a picture, whatever its name says.\n", "not a PNG or JPEG image"),
        (b"\x89PNG\r\n\x1a\n", "not a PNG or JPEG image"),
        (b"\xff\xd8\xff", "not a PNG or JPEG image"),
        (encoded(Image.new("L", (28, 28)), "GIF"), "not a PNG or JPEG image"),
        (encoded(Image.new("L", (28, 28)), "BMP"), "not a PNG or JPEG image"),
        (encoded(NOISE, "PNG")[:-3000], "cut short"),
        (encoded(NOISE, "JPEG")[:1500], "cut short"),
        (bomb(0, 28), "damaged"),
        (bomb(10_000, 10_000), "too large: more than 89,478,485 pixels"),
        (bomb(2_000_000_000, 2_000_000_000), "too large: more than 89,478,485 pixels"),
        (bomb(400, 400), "cut short"),
        (encoded(Image.new("RGBA", (28, 28), (9, 9, 9, 0)), "PNG"), "every pixel is transparent"),
    ],
)
def test_a_bad_file_is_one_line(contents: bytes, message: str, model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(contents)
    assert message in failure(model, path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_anywhere_is_a_picture_or_one_line(kind: str, model: nn.Module, tmp_path: Path) -> None:
    """Nothing that a decoder raises comes through, and nothing takes long."""
    drawn = np.random.default_rng(0)
    noise = Image.fromarray(drawn.integers(256, size=(40, 40, 3)).astype(np.uint8))
    whole = encoded(noise.convert("P") if kind == "PNG" else noise, kind)
    files = [tmp_path / f"{i:03}" for i in range(160)]
    for i, file in enumerate(files):
        damaged = bytearray(whole)
        if i % 4 in (1, 2):  # near the beginning, anywhere
            damaged[drawn.integers(100 if i % 4 == 1 else len(whole))] = drawn.integers(256)
        file.write_bytes(damaged[: drawn.integers(len(whole))] if i % 4 == 3 else damaged)
    results = list(predict_files(model, files))
    assert [result.path for result in results] == list(map(str, files))
    assert all(isinstance(result, Prediction) for result in results[::4])
    messages = {result.message for result in results if isinstance(result, Failure)}
    assert len(messages) > 4
    assert all(message.isprintable() and len(message) < 200 for message in messages)


def test_what_is_no_file_is_one_line(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(model, tmp_path / "missing.png") == "no such file or folder"
    assert failure(model, tmp_path / ("n" * 300)) == "File name too long"
    os.symlink(tmp_path / "nowhere", tmp_path / "link.png")
    assert failure(model, tmp_path / "link.png") == "no such file or folder"
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe" in failure(model, tmp_path / "pipe.png")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    image = saved(Image.new("L", (28, 28)), tmp_path / "locked.png")
    monkeypatch.setattr(Image, "open", forbidden)
    assert failure(model, image) == "Permission denied"
    monkeypatch.setattr(os, "scandir", forbidden)
    assert failure(model, tmp_path) == "Permission denied"


def test_read_says_the_same_as_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"^no such file or folder$"):
        read(tmp_path / "missing.png")


# What the network says.


def test_bad_pictures_do_not_stop_good_ones(model: nn.Module, splits: Splits, tmp_path: Path) -> None:
    paths: list[Path] = []
    for i in range(7):
        paths.append(saved(pixels_of(splits.test.inputs[i]), tmp_path / f"{i}.png"))
        paths.append(tmp_path / f"{i}.missing")
    for batch_size in (1, 3, 500):
        results = list(predict_files(model, paths, batch_size=batch_size))
        assert [result.path for result in results] == [str(path) for path in paths]
        assert all(isinstance(result, Failure) for result in results[1::2])
        with torch.no_grad():
            shares = model(splits.test.inputs[:7]).double().softmax(1)
        for row, result in zip(shares, results[::2], strict=True):
            assert isinstance(result, Prediction)
            assert tuple(result.probabilities) == CLASS_NAMES
            assert result.index == row.argmax()
            assert result.label == CLASS_NAMES[result.index]
            assert list(result.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)
            assert sum(result.probabilities.values()) == pytest.approx(1)


def test_files_are_read_a_batch_at_a_time(model: nn.Module, boot: Image.Image, tmp_path: Path) -> None:
    image = saved(boot, tmp_path / "boot.png")
    asked = []

    def endless():
        while True:
            asked.append(image)
            yield image

    results = predict_files(model, endless(), batch_size=4)
    assert isinstance(next(results), Prediction)
    assert len(asked) == 4


def test_a_folder_means_its_sorted_pictures(model: nn.Module, boot: Image.Image, tmp_path: Path) -> None:
    for name in ("b.PNG", "c.jpeg", "a.png", "d.jpg", ".hidden.png"):
        boot.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    results = list(predict_files(model, [tmp_path]))
    assert [Path(result.path).name for result in results] == ["a.png", "b.PNG", "broken.png", "c.jpeg", "d.jpg"]
    assert [type(result) for result in results] == [Prediction, Prediction, Failure, Prediction, Prediction]
    assert "a folder without pictures" in failure(model, tmp_path / "folder.png")


def test_the_model_stays_as_it_was(model: nn.Module, boot: Image.Image, tmp_path: Path) -> None:
    model.train()
    list(predict_files(model, [saved(boot, tmp_path / "boot.png")]))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_wrong_models_and_batches_are_refused(splits: Splits) -> None:
    images = splits.test.inputs[:2]
    with pytest.raises(ValueError, match=r"shape \(2, 7\) for 2 images; it must return 10"):
        predict_images(nn.Sequential(nn.Flatten(), nn.Linear(784, 7)), images, ["0", "1"])
    broken = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.constant_(broken[1].bias, torch.nan)
    with pytest.raises(ValueError, match="not all finite"):
        predict_images(broken, images, ["0", "1"])
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        predict_files(broken, [], batch_size=0)


# How it is shown.

SHARES = dict.fromkeys(CLASS_NAMES, 0.0) | {"Sneaker": 0.25, "Ankle boot": 0.625, "Sandal": 0.125}


def test_text_has_the_likeliest_classes() -> None:
    prediction = Prediction("boot.png", "Ankle boot", 9, SHARES, "dark on light: inverted")
    assert as_text(prediction) == "boot.png: Ankle boot 62.5%, Sneaker 25.0%, Sandal 12.5% (dark on light: inverted)"
    assert as_text(Prediction("boot.png", "Ankle boot", 9, SHARES), classes=1) == "boot.png: Ankle boot 62.5%"
    assert as_text(Failure("boot.png", "the file is empty")) == "boot.png: the file is empty"


def test_names_are_escaped_for_the_terminal() -> None:
    name = os.fsdecode(b"two\nlines \x1b[31m \xff \xc3\xbc")
    line = as_text(Failure(name, "the file is empty"))
    assert line == r"two\nlines \x1b[31m \udcff ü: the file is empty"
    line.encode("utf-8")


def test_json_reads_back() -> None:
    prediction = Prediction("ü.png", "Ankle boot", 9, SHARES, "inverted")
    name = os.fsdecode(b"\xff.png")
    assert json.loads(as_json([prediction, Failure(name, "the file is empty")])) == [
        {"path": "ü.png", "label": "Ankle boot", "index": 9, "probabilities": SHARES, "note": "inverted"},
        {"path": name, "error": "the file is empty"},
    ]
    assert json.loads(as_json([])) == []
