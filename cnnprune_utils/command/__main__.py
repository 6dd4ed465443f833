"""The entry point of ``cnnprune`` and ``python -m cnnprune_utils.command``: prepares the process."""

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
"""Module -> package to install. MLflow is optional: without it, runs are kept in their folders only."""


def main() -> int:
    """Run the command line and return the exit code."""
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
            stream.reconfigure(errors="replace")  # a sign that the terminal cannot show must not end a run
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cnnprune_utils.book.fetch").setLevel(logging.INFO)  # fetching missing data takes a while
    try:
        from . import cli

        code = cli.main()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # the reader of the output is gone, or its disk is full
        # otherwise Python writes again when it ends, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C again, while Python ends: ignored


if __name__ == "__main__":
    sys.exit(main())
