"""MLflow's own pages, on this machine's loopback address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec

from .store import INSTALL, artifacts, is_server, place, prepare_environment, shown

HOST = "127.0.0.1"


def serve(uri: str | None, port: int) -> int:
    """Serve the pages of the store until Ctrl-C, and return the exit code; print the reason if it is not 0."""
    try:
        uri = place(uri)
    except ValueError as error:
        return _say(f"error: {error}")
    if is_server(uri):
        print(f"The runs are on a server, and so are its pages: {shown(uri)}")
        return 0
    if find_spec("mlflow") is None:
        return _say(f"error: {INSTALL}")
    if problem := _unusable(port):
        return _say(f"error: {problem}")
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri]
    if (folder := artifacts(uri)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        command += ["--artifacts-destination", str(folder)]
    prepare_environment()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # its processes make stopping slow
    print(f"MLflow's pages of {shown(uri)}: http://{HOST}:{port} (Ctrl-C ends)", flush=True)
    # SIGTERM, and a closed terminal where the system sends a signal
    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    server = subprocess.Popen(
        command, start_new_session=True
    )  # Ctrl-C reaches this process only, which ends the server without a traceback
    try:
        code = server.wait()
    except KeyboardInterrupt:  # the usual end
        server.terminate()
        server.wait()
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _say(f"error: MLflow ended with exit code {code}; see its message above")


def _unusable(port: int) -> str:
    """Return the reason why the port cannot be used, or an empty text."""
    if not 1 <= port <= 65535:
        return f"--port {port} must lie between 1 and 65535"
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((HOST, port))
        except OSError as error:
            another = port % 65535 + 1 if port > 1023 else 5001  # the low ones are the system's
            return f"port {port} on {HOST} is unavailable ({error.strerror}). Try --port {another}"
    return ""


def _say(text: str) -> int:
    print(text, file=sys.stderr)
    return 1
