"""Where the command begins, also as ``python -m cnnprune_utils.command``: what its process needs beforehand."""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib.util import find_spec
from io import TextIOWrapper

NEEDS = {
    "jsonargparse": "jsonargparse",
    "docstring_parser": "docstring-parser",
    "filelock": "filelock",
    "yaml": "pyyaml",
}
"""Module -> the package that brings it. MLflow is not among them: without it runs are kept in their folders only."""


def main() -> int:
    """Do what the command line says; returns the exit code."""
    if missing := [package for module, package in NEEDS.items() if find_spec(module) is None]:
        print(
            f"error: cnnprune needs what is not installed; pip install {' '.join(missing)} brings it", file=sys.stderr
        )
        return 1
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; there may be no screen
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal has no sign for must not end a run
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cnnprune_utils.book.fetch").setLevel(logging.INFO)  # data that is missing takes a while to come
    try:
        from . import cli

        code = cli.main()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # nobody reads what is printed any more, or there is no room for it
        # or Python tries again at its end, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C again, while Python ends: it was heard


if __name__ == "__main__":
    sys.exit(main())
