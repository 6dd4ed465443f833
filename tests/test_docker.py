"""The container, as far as a test without an engine can tell: its files, and the commands in them, started here."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils.build import PatternMatcher, exclude_paths
from packaging.specifiers import SpecifierSet

from cnnprune_utils.book.chapters import chapters_in

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef0123456789abcdef"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, as (instruction, its arguments on one line)."""
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    joined = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines() if line.strip()]


INSTRUCTIONS = instructions()


def arguments(wanted: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == wanted]


def copies() -> list[tuple[list[str], str]]:
    """Return what the Dockerfile copies: sources in the repository, and the place in the image."""
    words = [[word for word in rest.split() if not word.startswith("--")] for rest in arguments("COPY")]
    return [(line[:-1], line[-1]) for line in words]


def extras_installed() -> list[str]:
    """The groups of pyproject.toml that the image has."""
    (found,) = filter(None, (re.search(r'--editable "\.\[(.+)\]"', rest) for rest in arguments("RUN")))
    return found[1].split(",")


def ignored() -> list[str]:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def interpolated(value: str, environment: dict[str, str]) -> str:
    """${NAME:-default}, as compose puts it in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1]) or found[2], value)


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in rest.split())


# Its files.


def test_the_dockerfile_passes_its_linter() -> None:
    run = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_compose_file_keeps_to_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    run = subprocess.run([*command, DOCKER / "compose.yaml"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_ports_are_open_to_this_machine_only() -> None:
    published = [interpolated(port, {}) for service in SERVICES.values() for port in service["ports"]]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_nothing_runs_as_root() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    (user,) = arguments("USER")
    assert int(user.partition(":")[0]) > 0
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"user", "privileged", "cap_add", "network_mode", "pid"} & service.keys()


def test_volumes_are_the_users_to_write() -> None:
    mounts = {mount for service in SERVICES.values() for mount in service["volumes"]}
    assert {mount.split(":")[0] for mount in mounts} == COMPOSE["volumes"].keys()
    (made,) = re.findall(r"install --directory --owner=(?:\w+) --group=\w+ (.*)", "\n".join(arguments("RUN")))
    assert {mount.split(":")[1] for mount in mounts} <= set(made.split())


def test_the_package_allows_its_python() -> None:
    (base,) = arguments("FROM")
    assert SpecifierSet(PROJECT["requires-python"]).contains(re.findall(r"python:(\d+\.\d+)", base)[0])


def test_torch_has_the_bounds_of_pyproject() -> None:
    lines = (DOCKER / "torch.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if not line.startswith("#")} <= set(PROJECT["dependencies"])


def test_mlflow_reports_to_nobody() -> None:
    code = "from mlflow.telemetry.utils import is_telemetry_disabled as off; raise SystemExit(not off())"
    own = {"CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST"}  # under these MLflow is silent anyway
    environment = {name: value for name, value in os.environ.items() if name not in own} | image_environment()
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# Its steps, in a plain folder.


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the content of the image's /book."""
    # the library adds two names, for engines that have their files at the root
    names = exclude_paths(str(ROOT), ignored()) - {"Dockerfile", ".dockerignore"}
    sent = {name for name in names if (ROOT / name).is_file()}
    folder = tmp_path_factory.mktemp("book")
    for sources, place in copies():
        for source in sources:
            files = [name for name in sent if name == source or name.startswith(f"{source}/")]
            assert files, f"COPY {source}: Dockerfile.dockerignore keeps it from the build"
            for name in files if place.startswith("./") else ():
                inside = Path(place, name if (ROOT / source).is_file() else Path(name).relative_to(source))
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / inside)
    return folder


def test_the_image_has_chapters_and_package(book: Path) -> None:
    assert {path.name for path in book.iterdir()} == {
        *("LICENSE", "README.md", "pyproject.toml"),
        *("cnnprune_utils", "data", "notebooks"),
    }
    chapters, in_image = (chapters_in(folder / "notebooks") for folder in (ROOT, book))
    assert [path.name for path in in_image] == [path.name for path in chapters]
    assert not [path for path in book.rglob("*") if path.name in ("__pycache__", ".ipynb_checkpoints", ".git", ".env")]
    tracked = subprocess.run(
        ["git", "ls-files", "cnnprune_utils"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for name in tracked.stdout.split():
        assert (book / name).is_file()


@pytest.mark.parametrize(
    "name",
    [
        ".git/config",
        ".venv/bin/python",
        "build/book/index.html",
        "cnnprune_utils/__pycache__/data.cpython-311.pyc",
        "data/FashionMNIST/raw/t10k-labels-idx1-ubyte",
        "docker/.env",
        "notebooks/.ipynb_checkpoints/01_train.ipynb",
        "notebooks/solutions/.ipynb_checkpoints/01_train.ipynb",
        "runs/mlflow.db",
    ],
)
def test_private_and_large_files_stay_out(name: str) -> None:
    assert PatternMatcher(ignored()).matches(name)
    assert not PatternMatcher(ignored()).matches("notebooks/01_train.ipynb")


def test_the_package_works_in_the_image(book: Path) -> None:
    code = "from cnnprune_utils.book import checkpoint, plots; print(plots.__file__, checkpoint('baseline').widths)"
    environment = os.environ | {"PYTHONPATH": str(book), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=book, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{book / 'cnnprune_utils' / 'book' / 'plots.py'} (2, 4, 8)\n"


def test_pip_installs_the_image(book: Path) -> None:
    """The two `pip install` of the Dockerfile, on this environment, without an index: all they ask for is in it."""
    pytest.importorskip("setuptools", reason="without an index pip cannot fetch it")
    copy = shutil.copytree(book, book.parent / "for_pip")
    options = ["--dry-run", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    wanted = ["--requirement", DOCKER / "torch.txt", "--editable", f"{copy}[{','.join(extras_installed())}]"]
    command = [sys.executable, "-m", "pip", "install", *options, *wanted]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    would = [line for line in run.stdout.replace("_", "-").splitlines() if line.startswith("Would install")]
    assert would == [f"Would install {PROJECT['name']}-{PROJECT['version']}"]


# Its commands, started.


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def moved(command: list[str], port: int, free: int) -> list[str]:
    """The command on another port, and on the loopback address, where a container's network would be."""
    changed = [word.replace("0.0.0.0", "127.0.0.1") for word in command]
    changed = [re.sub(rf"(?<=--port=){port}$|(?<='127\.0\.0\.1', ){port}\b", str(free), word) for word in changed]
    assert sum(word != other for word, other in zip(command, changed, strict=True)) in (1, 2), command
    return changed


@dataclass(frozen=True)
class Server:
    port: int
    folder: Path
    health: list[str]
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def is_healthy(self) -> bool:
        return subprocess.run(self.health, stderr=subprocess.DEVNULL, check=False, timeout=60).returncode == 0

    def get(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def running(
    command: list[str], health: list[str], port: int, folder: Path, environment: dict[str, str]
) -> Iterator[Server]:
    """The command in the folder, from the moment its health check passes; with nothing of the caller's settings."""
    (folder / "runs").mkdir(parents=True)
    free = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "MLFLOW"))}
    own = {"HOME": str(folder), "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            moved(command, port, free),
            cwd=folder,
            env=kept | image_environment() | environment | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(free, folder, [sys.executable, *moved(health, port, free)[1:]], process)
    try:
        deadline = time.monotonic() + 120
        while not server.is_healthy():
            assert process.poll() is None, server.log()
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.3)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            if process.poll() is None or _is_left(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def compose_environment(service: str, user: dict[str, str]) -> dict[str, str]:
    return {name: interpolated(value, user) for name, value in SERVICES[service].get("environment", {}).items()}


@contextmanager
def jupyter(folder: Path, user: dict[str, str]) -> Iterator[Server]:
    (command,) = (json.loads(rest) for rest in arguments("CMD"))
    (health,) = (json.loads(rest[rest.index("CMD") + 3 :]) for rest in arguments("HEALTHCHECK"))
    assert command[:2] == ["jupyter", "lab"]
    # on the loopback address this is so without saying; in the container it is not
    assert "--ServerApp.allow_remote_access=False" in command
    assert not {"command", "entrypoint", "healthcheck"} & SERVICES["jupyter"].keys()
    if os.geteuid() == 0:  # these tests may run as root, in a container of CI; Jupyter refuses that, as it should
        command.append("--allow-root")
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    with running(command, health, 8888, folder, compose_environment("jupyter", user) | own) as server:
        yield server


def test_jupyterlab_wants_the_token(tmp_path: Path) -> None:
    with jupyter(tmp_path / "book", {"JUPYTER_TOKEN": TOKEN}) as server:
        assert server.get("/api/contents")[0] == 403
        assert server.get("/api/contents", Authorization="token 0123")[0] == 403
        assert server.get("/lab")[0] == 302  # to where one logs in
        status, body = server.get("/api/contents", Authorization=f"token {TOKEN}")
        assert status == 200
        assert "runs" in [entry["name"] for entry in json.loads(body)["content"]]
        status, body = server.get(f"/lab?token={TOKEN}")
        assert status == 200
        assert b"JupyterLab" in body
        # a page in the browser that has a name of its own made to lead here
        assert server.get("/api", Host="elsewhere.example")[0] == 403
        assert server.get("/api", Host="localhost")[0] == 200
        assert TOKEN not in re.sub(r"token=\S+", "", server.log())
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert not server.is_healthy()


def test_jupyterlab_draws_a_token(tmp_path: Path) -> None:
    with jupyter(tmp_path / "book", {}) as server:
        assert server.get("/api/contents")[0] == 403
        assert server.get("/api/contents?token=")[0] == 403
        drawn = re.search(r"http://127\.0\.0\.1:\d+/lab\S*\?token=([0-9a-f]{48})", server.log())
        assert drawn
        assert server.get(f"/api/contents?token={drawn[1]}")[0] == 200


def test_mlflow_keeps_its_data_in_runs(tmp_path: Path) -> None:
    service = SERVICES["mlflow"]
    assert service["healthcheck"]["test"][0] == "CMD"
    health, environment = service["healthcheck"]["test"][1:], compose_environment("mlflow", {})
    with running(service["command"], health, 5000, tmp_path / "book", environment) as server:
        status, body = server.get("/")
        assert status == 200
        assert b"MLflow" in body
        path = "/api/2.0/mlflow/experiments/create"
        told = {"method": "POST", "body": b'{"name": "pruning"}', "Content_Type": "application/json"}
        assert server.get(path, **told)[0] == 200
        status, body = server.get("/api/2.0/mlflow/experiments/get-by-name?experiment_name=pruning")
        assert status == 200
        assert json.loads(body)["experiment"]["artifact_location"].startswith("mlflow-artifacts:/")
        assert server.get("/api/2.0/mlflow-artifacts/artifacts/1/plan.json", method="PUT", body=b"{}")[0] == 200
        # JupyterLab's container calls it by the service's name; nobody else may, by any other
        called = SERVICES["jupyter"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
        assert server.get("/api/2.0/mlflow/experiments/get?experiment_id=0", Host=called)[0] == 200
        assert server.get("/api/2.0/mlflow/experiments/get?experiment_id=0", Host="elsewhere.example")[0] == 403
        runs = server.folder / "runs"
        assert (runs / "mlflow.db").is_file()
        assert (runs / "mlartifacts" / "1" / "plan.json").read_bytes() == b"{}"
        assert {path.name for path in server.folder.iterdir()} <= {"runs", "log", ".cache", ".mlflow"}
    assert not server.is_healthy()
    assert server.process.returncode in (0, -signal.SIGTERM)
