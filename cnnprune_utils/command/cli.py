"""``cnnprune``: the command. Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from .folder import STEPS, RunError, RunFolder, versions
from .options import parser, settings_of
from .parsing import SettingsError, to_yaml
from .settings import Settings

if TYPE_CHECKING:
    from torch import nn

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        given = parser().parse_args(arguments, defaults=False)
        command, options = given.command, given[given.command]
        if command == "predict":
            return _predict(options)
        if command == "data":
            from ..book.fashion_mnist import fetch_and_say

            return fetch_and_say(options.get("root"))
        if command == "ui":
            from .ui import serve

            return serve(options.get("tracking.uri"), options.get("port", 5000))
        folder, settings = settings_of(command, options)
        if options.get("print_config"):
            print(to_yaml(settings), end="")
            return 0
        return _steps(command, folder, settings, redo=bool(options.get("redo")))
    except (SettingsError, RunError) as error:
        return _say(f"error: {error}", USAGE)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        return _say(f"error: {_reason(error)}", FAILED)


def _steps(command: str, folder: RunFolder, settings: Settings, *, redo: bool) -> int:
    """Run one step, or all of them for ``run``."""
    from safetensors import SafetensorError

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends a run as Ctrl-C does
    try:
        _do(command, folder, settings, redo)
    except (SettingsError, RunError):
        raise
    except KeyboardInterrupt:
        return _say(f"interrupted{_go_on(command, folder)}", INTERRUPTED)
    except OSError as error:
        room = "; make room on the disk" if error.errno in _FULL else ""
        return _say(f"error: {error}{room}{_go_on(command, folder)}", FAILED)
    except (FloatingPointError, SafetensorError) as error:
        return _say(f"error: {error}", FAILED)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _reason(error: Exception) -> str:
    """Return the message of an error; of PyTorch's, the first line only, without its advice to developers."""
    from ..book.fetch import FetchError

    text = str(error) or type(error).__name__
    return text.partition("\n")[0] if isinstance(error, RuntimeError) and not isinstance(error, FetchError) else text


def _go_on(command: str, folder: RunFolder) -> str:
    if not folder.ready:
        return "; nothing was begun"
    again = f"cnnprune {command} {shlex.quote(str(folder.path))}"
    return f"; what was finished is kept in {folder.path}. To go on: {again}"


def _do(command: str, folder: RunFolder, settings: Settings, redo: bool) -> None:
    from . import work
    from .console import Console
    from .observer import Observer, Observers
    from .steps import STEP_FUNCTIONS
    from .tracking import Tracker

    first = "train" if command == "run" else command
    work.check(settings)
    folder.refuse(settings, step=first, redo=redo)
    tracker = Tracker(settings.tracking, new_run=redo) if settings.tracking.enabled else Observer()
    splits = work.load_data(settings.data, settings.seed)
    with folder.locked():
        folder.refuse(settings, step=first, redo=redo)  # another process may have worked while the images were read
        folder.begin(settings, step=first, redo=redo)
        observer = Observers([Console(), tracker])
        observer.start(folder.path, settings, versions(settings))
        try:
            for name in ("settings.yaml", "versions.json"):
                observer.file(folder.file(name))
            for name in [*STEPS][: [*STEPS].index(first)]:  # done before, but perhaps not tracked
                STEP_FUNCTIONS[name](work.Run(folder, settings, splits, tracker))
            run = work.Run(folder, settings, splits, observer)
            for name in STEPS if command == "run" else [command]:
                STEP_FUNCTIONS[name](run)
        except BaseException as error:
            observer.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", str(error))
            raise
        observer.end("finished")


def _predict(options: Namespace) -> int:
    from ..book.fashion_mnist import load_fashion_mnist
    from .predictions import Failure, as_json, as_text, predict_files, predict_images

    paths, numbers = options.get("images") or [], options.get("index") or []
    if not paths and not numbers:
        return _say("error: nothing to predict. Give image files, folders, or --index", USAGE)
    model = _model(options["model"], options.get("tracking.uri"))
    of_test = []
    if numbers:
        test = load_fashion_mnist(options.get("root")).test
        if wrong := [n for n in numbers if not 0 <= n < len(test)]:
            return _say(f"error: --index {wrong}: the test images are numbered from 0 to {len(test) - 1}", USAGE)
        of_test = predict_images(model, test.inputs[numbers], [f"test image {n}" for n in numbers])
    results = chain(predict_files(model, paths, invert=options.get("invert")), of_test)
    found = []
    for result in results:
        found.append(result)
        if not options.get("json"):
            print(as_text(result), file=sys.stderr if isinstance(result, Failure) else sys.stdout)
    if options.get("json"):
        print(as_json(found))
    return FAILED if any(isinstance(result, Failure) for result in found) else 0


def _model(name: str, uri: str | None) -> nn.Module:
    """Return the last network of a run's folder, the one in a file, or one in MLflow's store.

    Raises:
        ValueError, OSError: it does not exist, is damaged, or was not made for Fashion-MNIST.
    """
    from ..saving import load_model
    from .store import NETWORKS, NoStore, fetch_network, place

    path = Path(name)
    if not path.exists() and path.suffix != ".safetensors" and len(path.parts) <= 2 and path.parts[0] != "runs":
        try:
            with TemporaryDirectory() as folder:
                return _checked(load_model(fetch_network(name, place(uri), Path(folder))), name)
        except NoStore as error:
            raise ValueError(f"there is no run folder and no file {name}; {error}") from error
    if path.is_dir():
        files = [path / f"{name}.safetensors" for name in NETWORKS]
        there = [file for file in files if file.is_file()]
        if not there:
            raise ValueError(f"{path} holds no network of a run; `cnnprune train` makes one")
        path = there[0]
        if path.stem != NETWORKS[0]:
            _say(f"note: the {path.stem} network answers, because the run is not fine-tuned yet", 0)
    if not path.exists():
        raise ValueError(f"there is no run folder and no file {path}")
    return _checked(load_model(path), name)


def _checked(model: nn.Module, name: str) -> nn.Module:
    from ..book.cnn import CNN
    from ..book.fashion_mnist import CLASS_NAMES, IMAGE_SIZE

    fits = (1, IMAGE_SIZE, len(CLASS_NAMES))
    if not isinstance(model, CNN) or (model.in_channels, model.image_size, model.n_classes) != fits:
        raise ValueError(f"{name} holds a network for other images than Fashion-MNIST's: grey, 28x28, ten classes")
    return model.float()  # as the images are


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
