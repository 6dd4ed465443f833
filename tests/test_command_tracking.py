"""Runs logged in MLflow, read back from a real server through its REST API and MLflow's client."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pytest
import torch

from cnnprune_utils.batches import Splits
from cnnprune_utils.command import cli, console, store, tracking, work
from cnnprune_utils.command import ui as ui_module
from cnnprune_utils.command.cli import main
from cnnprune_utils.command.folder import STEPS, RunFolder
from cnnprune_utils.command.steps import STEP_FUNCTIONS
from cnnprune_utils.saving import load_model

if find_spec("mlflow") is None:  # importing it takes seconds, in every process that collects this file
    pytest.skip("MLflow is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--training.epochs", "2", "--finetuning.epochs", "1", "--training.batch_size", "100"]
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def few(splits: Splits) -> Splits:
    return Splits(splits.train.subset(300), splits.validation.subset(100), splits.test.subset(100))


@pytest.fixture
def few_images(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no figures: they take most of the time of a run as small as this."""
    monkeypatch.setattr(work, "load_data", lambda data, seed: few)
    monkeypatch.setattr(work, "draw", lambda folder, step: None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(uri: str, path: str, **body: Any) -> dict[str, Any]:
    """Return the answer of the REST API to GET, or to POST with a body."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def wait_for(uri: str, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 600
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server on this machine."""
    folder, uri = tmp_path_factory.mktemp("server"), f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", uri.rpartition(":")[2], "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **QUIET}, stdout=log, stderr=log)
        try:
            wait_for(uri, process)
            yield uri
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def tracked(server: str, few: Splits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run's folder, with its figures, and what the REST API says of the run."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "load_data", lambda data, seed: few)
        assert main(["run", str(folder), "--config", "seed", *SMALL, "--tracking.uri", server]) == 0
    return folder, run_of(folder, server)


def run_of(folder: Path, server: str) -> dict[str, Any]:
    run_id = json.loads((folder / tracking.RECORD).read_text())["run_id"]
    run: dict[str, Any] = ask(server, f"runs/get?run_id={run_id}")["run"]
    return run


def files_of(run: dict[str, Any], server: str, folder: str = "") -> set[str]:
    found: set[str] = set()
    for file in ask(server, f"artifacts/list?run_id={run['info']['run_id']}&path={folder}").get("files", []):
        found |= files_of(run, server, file["path"]) if file.get("is_dir") else {file["path"]}
    return found


def history(run: dict[str, Any], server: str, metric: str) -> list[tuple[int, float]]:
    found = ask(server, f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={metric}").get("metrics", [])
    return [(int(point.get("step", 0)), point["value"]) for point in found]


def models_of(run: dict[str, Any], server: str) -> dict[str, str]:
    ids = [output["model_id"] for output in run["outputs"]["model_outputs"]]
    return {ask(server, f"logged-models/{i}")["model"]["info"]["name"]: i for i in ids}


Tracked = tuple[Path, dict[str, Any]]


# what is logged


def test_settings_and_versions_are_logged(tracked: Tracked) -> None:
    folder, run = tracked
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert params["seed"] == "0"
    assert params["training.epochs"] == "2"
    assert params["pruning.remove"] == "{'network.0': 1, 'network.2': 2, 'network.4': 5}"
    assert {"data.validation", "network.widths", "scoring.criterion", "loop.updates", "finetuning.epochs"} <= set(
        params
    )
    assert not {"data.root", "tracking.uri"} & set(params)  # of one machine
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    versions = json.loads((folder / "versions.json").read_text())
    assert tags["version.torch"] == versions["torch"]
    assert tags["version.git_commit"] == str(versions["git_commit"])
    assert (run["info"]["run_name"], run["info"]["status"]) == ("small", "FINISHED")
    assert (tags["mlflow.source.name"], tags["seed"]) == ("cnnprune", "0")


@pytest.mark.parametrize(("stage", "file"), [("original", "train"), ("pruned", "finetune")])
def test_epochs_have_comparable_names(stage: str, file: str, tracked: Tracked, server: str) -> None:
    rows = pd.read_csv(tracked[0] / f"{file}.csv")
    for name in ("validation_accuracy", "validation_loss", "train_loss"):
        expected = rows[["epoch", name]].dropna()
        assert history(tracked[1], server, f"{stage}/{name}") == [*expected.itertuples(index=False, name=None)]


def test_the_comparison_is_logged_as_numbers_too(tracked: Tracked) -> None:
    metrics = {metric["key"]: metric["value"] for metric in tracked[1]["data"]["metrics"]}
    table = pd.read_csv(tracked[0] / "comparison.csv", index_col="model")
    for model in ("original", "pruned", "fine-tuned"):
        assert metrics[f"{model}/parameters"] == table.loc[model, "parameters"]
        assert metrics[f"{model}/test_accuracy"] == pytest.approx(table.loc[model, "accuracy"])


def test_all_files_of_the_folder_are_logged(tracked: Tracked, server: str) -> None:
    folder, run = tracked
    names = {"settings.yaml", "versions.json", "plan.json", "summary_before.txt", "summary_after.txt"}
    names |= {f"{table}.csv" for table in ("train", "ranks", "removed", "finetune", "comparison")}
    names |= {f"figures/{figure}.png" for figure in ("training", "ranks", "accuracy", "shares")}
    assert files_of(run, server) == names
    for name in ("plan.json", "figures/shares.png"):
        where = f"{server}/get-artifact?run_id={run['info']['run_id']}&path={name}"
        assert urllib.request.urlopen(where, timeout=60).read() == (folder / name).read_bytes()


def test_mlflow_returns_the_same_networks(
    tracked: Tracked, server: str, few: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import pyfunc, set_tracking_uri

    folder, run = tracked
    models = models_of(run, server)
    assert models.keys() == {"baseline", "pruned", "finetuned"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)  # which the next line sets too; here it is put back
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    set_tracking_uri(server)
    try:
        for name, model_id in models.items():
            (tmp_path / name).mkdir()
            loaded = pyfunc.load_model(f"models:/{model_id}", dst_path=str(tmp_path / name))
            with torch.no_grad():
                expected = load_model(folder / f"{name}.safetensors").eval()(few.test.inputs)
            assert torch.equal(torch.from_numpy(loaded.predict(few.test.inputs.numpy())), expected)
            (images,), (logits,) = loaded.metadata.signature.inputs, loaded.metadata.signature.outputs
            assert (images.shape, str(images.type)) == ((-1, 1, 28, 28), "float32")
            assert (logits.shape, str(logits.type)) == ((-1, 10), "float32")
            example = loaded.input_example
            assert torch.equal(torch.from_numpy(example), few.validation.inputs[:4])
    finally:
        set_tracking_uri(None)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert kinds <= {"", ".json", ".yaml", ".txt", ".py", ".safetensors"}


# logged again


def test_nothing_is_logged_twice(tracked: Tracked, server: str, few_images: None) -> None:
    folder, before = tracked
    assert main(["run", str(folder)]) == 0
    after = run_of(folder, server)
    assert after["info"]["run_id"] == before["info"]["run_id"]
    assert after["outputs"] == before["outputs"]
    assert after["info"]["status"] == "FINISHED"
    assert [step for step, _ in history(after, server, "original/validation_loss")] == [0, 1, 2]


@pytest.mark.usefixtures("few_images")
def test_steps_share_a_run_and_redo_starts_one(server: str) -> None:
    folder = Path("mine")
    assert main(["train", str(folder), *SMALL, "--tracking.uri", server]) == 0
    first = run_of(folder, server)
    for step in ("score", "prune"):
        assert main([step, str(folder)]) == 0
    assert main(["finetune", str(folder), "--finetuning.epochs", "2"]) == 0
    run = run_of(folder, server)
    assert run["info"]["run_id"] == first["info"]["run_id"]
    assert [step for step, _ in history(run, server, "pruned/validation_loss")] == [0, 1, 2]
    assert main(["finetune", str(folder), "--redo", "--finetuning.epochs", "1"]) == 0
    again = run_of(folder, server)
    assert again["info"]["run_id"] != run["info"]["run_id"]
    assert models_of(again, server).keys() == {"baseline", "pruned", "finetuned"}
    assert [step for step, _ in history(again, server, "original/validation_loss")] == [0, 1, 2]
    assert [step for step, _ in history(again, server, "pruned/validation_loss")] == [0, 1]


@pytest.mark.usefixtures("few_images")
def test_an_interrupted_run_resumes_as_itself(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(STEP_FUNCTIONS, "score", lambda run: signal.raise_signal(signal.SIGINT))
        assert main(["run", "mine", *SMALL, "--tracking.uri", server]) == cli.INTERRUPTED
    stopped = run_of(Path("mine"), server)
    assert stopped["info"]["status"] == "KILLED"
    assert main(["run", "mine"]) == 0
    whole = run_of(Path("mine"), server)
    assert (whole["info"]["run_id"], whole["info"]["status"]) == (stopped["info"]["run_id"], "FINISHED")


def test_kill_9_loses_and_repeats_no_epoch(server: str) -> None:
    mine = ["run", "mine", "--data.train", "1000", "--data.validation", "200", "--training.epochs", "40"]
    mine += ["--finetuning.epochs", "1", "--tracking.uri", server]
    command = [sys.executable, "-m", "cnnprune_utils.command", *mine]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not Path("mine/train.state").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = run_of(Path("mine"), server)
    assert killed["info"]["status"] == "RUNNING"  # it had no time to say anything
    assert main(["run", "mine"]) == 0
    whole = run_of(Path("mine"), server)
    assert (whole["info"]["run_id"], whole["info"]["status"]) == (killed["info"]["run_id"], "FINISHED")
    for metric in ("validation_loss", "seconds"):
        rows = pd.read_csv("mine/train.csv")
        assert history(whole, server, f"original/{metric}") == list(zip(rows["epoch"], rows[metric], strict=True))


# a server that does not answer


def the_warning(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    return line


@pytest.mark.usefixtures("few_images")
def test_a_refusing_server_is_caught_up_later(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert main(["run", "mine", *SMALL, "--tracking.uri", nobody]) == 0
    assert the_warning(capsys) == (
        f"warning: MLflow, {nobody}: it does not answer. The run continues; everything is kept in mine, and "
        "the next command for it logs the rest"
    )
    assert all(RunFolder(Path("mine")).done(step) for step in STEPS)
    assert main(["run", "mine", "--tracking.uri", server]) == 0
    run = run_of(Path("mine"), server)
    assert models_of(run, server).keys() == {"baseline", "pruned", "finetuned"}
    assert [step for step, _ in history(run, server, "pruned/validation_loss")] == [0, 1]


@contextmanager
def in_between(uri: str) -> Iterator[tuple[str, Any]]:
    """An address that leads to the server, and what makes it go away, as a server that dies does."""
    host, port = uri.removeprefix("http://").split(":")

    class Pass(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as there:
                back = threading.Thread(target=copy, args=(there, self.request), daemon=True)
                back.start()
                copy(self.request, there)
                back.join()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

        def finish_request(self, request: Any, client_address: Any) -> None:
            connections.append(request)
            super().finish_request(request, client_address)

    connections: list[socket.socket] = []
    passing = Server(("127.0.0.1", 0), Pass)
    threading.Thread(target=passing.serve_forever, args=(0.05,), daemon=True).start()

    def go_away() -> None:
        passing.shutdown()
        passing.server_close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    try:
        yield f"http://127.0.0.1:{passing.server_address[1]}", go_away
    finally:
        go_away()


@pytest.mark.usefixtures("few_images")
def test_a_lost_server_does_not_end_a_run(
    server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = STEP_FUNCTIONS["prune"]
    with in_between(server) as (uri, go_away):
        monkeypatch.setitem(STEP_FUNCTIONS, "prune", lambda run: (go_away(), prune(run)))
        assert main(["run", "mine", *SMALL, "--tracking.uri", uri]) == 0
    assert f"MLflow, {uri}: it does not answer. The run continues; everything is kept in mine" in the_warning(capsys)
    assert all(RunFolder(Path("mine")).done(step) for step in STEPS)
    run = run_of(Path("mine"), server)
    assert run["info"]["status"] == "RUNNING"  # nobody could tell it
    assert "ranks.csv" in files_of(run, server)
    assert "plan.json" not in files_of(run, server)


@pytest.mark.usefixtures("few_images")
def test_a_silent_server_delays_little(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert main(["train", "mine", *SMALL, "--tracking.uri", f"http://127.0.0.1:{silent.getsockname()[1]}"]) == 0
    assert "it does not answer" in the_warning(capsys)


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("uri", ["nonsense://somewhere", "sqlite:////proc/none/mlflow.db"])
def test_other_store_errors_are_one_line(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mine", *SMALL, "--tracking.uri", uri]) == 0
    assert f"warning: MLflow, {uri}: " in the_warning(capsys)


# predict


def test_predict_takes_runs_and_registered_models(
    tracked: Tracked, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = tracked
    models = models_of(run, server)
    ask(server, "registered-models/create", name="shoes")
    for name in ("finetuned", "baseline"):
        ask(server, "model-versions/create", name="shoes", source=f"models:/{models[name]}", model_id=models[name])
    ask(server, "registered-models/alias", name="shoes", alias="small", version="1")
    capsys.readouterr()

    def said(model: str) -> str:
        assert main(["predict", model, "--index", "0", "1", "--json", "--tracking.uri", server]) == 0
        return capsys.readouterr().out

    small, large = (said(str(folder / f"{name}.safetensors")) for name in ("finetuned", "baseline"))
    assert said(run["info"]["run_id"]) == said("shoes/1") == said("shoes@small") == small != large
    assert said("shoes") == said("shoes/2") == large


def test_predict_says_that_the_store_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    Path("g.db").write_text("this is not a database, and long enough to be taken for one")
    assert main(["predict", "nope", "--index", "0", "--tracking.uri", "sqlite:///g.db"]) == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is no run folder and no file nope; and MLflow's store sqlite:///g.db does not")


@pytest.mark.parametrize("name", ["0123456789abcdef0123456789abcdef", "nobody", "nobody/3", "nobody@home", "it's"])
def test_predict_names_what_is_missing(name: str, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", name, "--index", "0", "--tracking.uri", server]) == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: there is no run folder and no file {name}; and MLflow's store {server} does not")


# the default store, and its pages

SERVER = """import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@contextmanager
def pages() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``cnnprune ui``, as a terminal starts it: its address, where it answers, and the process."""
    uri = f"http://127.0.0.1:{free_port()}"
    ui = subprocess.Popen(
        [sys.executable, "-m", "cnnprune_utils.command", "ui", "--port", uri.rpartition(":")[2]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(uri, ui)
        yield uri, ui
    finally:
        if ui.poll() is None:
            ui.terminate()
            ui.communicate(timeout=60)


@pytest.mark.usefixtures("few_images")
def test_ui_shows_the_file_on_loopback(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "runs/mine", *SMALL]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "in sqlite:///runs/mlflow.db; to look: cnnprune ui" in said.out
    assert [path.name for path in Path().iterdir()] == ["runs"]
    assert {path.name for path in Path("runs").iterdir()} == {"mine", "mlflow.db", "mlartifacts"}
    run_id = json.loads(Path("runs/mine", tracking.RECORD).read_text())["run_id"]
    assert main(["predict", run_id, "--index", "0"]) == 0
    assert [path.name for path in Path().iterdir()] == ["runs"]
    with pages() as (uri, ui):
        assert urllib.request.urlopen(f"{uri}/", timeout=60).status == 200
        run = run_of(Path("runs/mine"), uri)
        assert run["info"]["run_name"] == "mine"
        assert "summary_before.txt" in files_of(run, uri)
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
            socket.create_connection(("127.0.0.2", int(uri.rpartition(":")[2])), 5)  # this machine's other address
        os.killpg(ui.pid, signal.SIGINT)  # as Ctrl-C does: every process of the terminal hears it
        out, err = ui.communicate(timeout=60)
    assert ui.returncode == 0
    assert f"MLflow's pages of sqlite:///runs/mlflow.db: {uri} (Ctrl-C ends)" in out
    assert "Traceback" not in err
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(uri, timeout=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "a closed terminal"])
def test_what_ends_the_pages_ends_their_server(number: signal.Signals) -> None:
    """With a server that starts at once in the place of MLflow's, which the test before this one ends."""
    Path("mlflow").mkdir()
    Path("mlflow", "__main__.py").write_text(SERVER)
    Path("health").touch()
    with pages() as (uri, ui):
        ui.send_signal(number)
        ui.communicate(timeout=60)
    assert ui.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(uri, timeout=5)


@pytest.mark.usefixtures("few_images")
def test_experiments_separate_runs(capsys: pytest.CaptureFixture[str]) -> None:
    client = store.connect(store.place(None))
    for name in ("one", "two"):
        assert main(["train", "mine", *SMALL, "--tracking.experiment", name]) == 0
        assert f"experiment {name}, in " in capsys.readouterr().out
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        assert len(client.search_runs([experiment.experiment_id])) == 1
    client.delete_experiment(experiment.experiment_id)
    assert main(["train", "mine", *SMALL]) == 0
    assert "the experiment two was deleted; restore it, or name another" in the_warning(capsys)


@pytest.mark.usefixtures("few_images")
def test_a_closed_pipe_is_not_the_stores_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(text: str = "") -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def say(text: str, file: TextIO | None = None) -> None:
        print(text, file=file) if file else closed()

    monkeypatch.setattr(console, "say", closed)
    monkeypatch.setattr(tracking, "say", say)
    assert main(["train", "mine", *SMALL]) == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: [Errno 32] Broken pipe; what was finished is kept in mine. To go on: ")


@pytest.mark.usefixtures("few_images")
def test_the_last_line_says_where_runs_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mine", *SMALL, "--tracking.uri", "sqlite:///another place.db"]) == 0
    assert "to look: cnnprune ui --tracking.uri 'sqlite:///another place.db'\n" in capsys.readouterr().out


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: port {port} on 127.0.0.1 is unavailable (")
    assert not Path("runs").exists()


def test_a_server_has_its_pages_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example")
    assert main(["ui"]) == 0
    assert capsys.readouterr().out == "The runs are on a server, and so are its pages: https://mlflow.example\n"


# where the store is


def test_a_wrong_address_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri in ("bogus", "file:///runs"):
        for line in (["predict", "shoes", "--index", "0", "--tracking.uri", uri], ["ui", "--tracking.uri", uri]):
            assert main(line) == cli.FAILED
            assert capsys.readouterr().err.startswith(f"error: {uri} is not the address of an MLflow store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert main(["run", "mine", *SMALL]) == cli.FAILED
    assert capsys.readouterr().err.startswith("error: ./mlruns is not the address of an MLflow store")
    assert not Path("mine").exists()


def test_flag_beats_variable_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.place(None) == f"sqlite:///{tmp_path.as_posix()}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert store.place(None) == "http://localhost:5000"
    assert store.place("sqlite:///mine.db") == f"sqlite:///{tmp_path.as_posix()}/mine.db"
    assert store.artifacts(store.place("sqlite:///a/b.db")) == tmp_path / "a" / "mlartifacts"


# without MLflow


def test_mlflow_is_imported_late() -> None:
    modules = ", ".join(f"cnnprune_utils.command.{name}" for name in ("cli", "steps", "store", "tracking", "ui"))
    code = f"import sys, {modules}; raise SystemExit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.usefixtures("few_images")
def test_a_run_works_without_mlflow(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store, ui_module):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert main(["run", "mine", *SMALL]) == 0
    assert the_warning(capsys) == f"warning: {store.INSTALL}. This run is kept in mine only"
    assert all(RunFolder(Path("mine")).done(step) for step in STEPS)
    assert main(["ui"]) == cli.FAILED
    assert capsys.readouterr().err == f"error: {store.INSTALL}\n"
    assert main(["predict", "shoes", "--index", "0", "--tracking.uri", "http://localhost:9"]) == cli.FAILED
    assert store.INSTALL in capsys.readouterr().err


def test_the_hint_matches_pyproject() -> None:
    wanted = store.INSTALL.split('"')[1]
    assert f'"{wanted}"' in (ROOT / "pyproject.toml").read_text()
