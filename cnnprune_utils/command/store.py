"""MLflow's store: its address, and the networks in it. MLflow is imported here and in tracking, when it is needed.

Without it the package, the chapters, and every command but ``ui`` still work.
"""

from __future__ import annotations

import logging
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..book.fashion_mnist import CLASS_NAMES, IMAGE_SIZE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import Tensor

DEFAULT = "sqlite:///runs/mlflow.db"
INSTALL = 'MLflow is not installed. Install it with: pip install "mlflow>=3.5"'
_FILE = "sqlite:///"
NETWORKS = ("finetuned", "pruned", "baseline")
"""The networks of a run, the last one first."""


class NoStore(ValueError):
    """MLflow is not installed, does not answer, or does not have the network."""


def place(uri: str | None) -> str:
    """Return the store: ``uri``, else MLFLOW_TRACKING_URI, else :data:`DEFAULT`. The path of a file becomes absolute.

    Raises:
        ValueError: it is not an address, or that of a folder, which MLflow no longer supports.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT
    if ("://" not in uri and not uri.startswith("databricks")) or uri.startswith("file:"):
        raise ValueError(
            f"{uri} is not the address of an MLflow store. Set --tracking.uri or MLFLOW_TRACKING_URI to one such "
            "as http://localhost:5000 or sqlite:///runs/mlflow.db"
        )
    return _FILE + Path(uri.removeprefix(_FILE)).resolve().as_posix() if uri.startswith(_FILE) else uri


def artifacts(uri: str) -> Path | None:
    """Return the folder for files beside a store that is a file; None for a server, which has its own."""
    return Path(uri.removeprefix(_FILE)).parent / "mlartifacts" if uri.startswith(_FILE) else None


def shown(uri: str) -> str:
    """Return the address without a password, and the path of a file relative to the working folder, if it is below."""
    if uri.startswith(_FILE):
        file = Path(uri.removeprefix(_FILE))
        return _FILE + (file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file).as_posix()
    return re.sub(r"//[^/@]*@", "//", uri)


def connect(uri: str) -> MlflowClient:
    """Return a client of the store, which gives up within a minute if the server does not answer.

    Raises:
        NoStore: MLflow is not installed.
    """
    prepare_environment()
    if find_spec("mlflow") is None:
        raise NoStore(INSTALL)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they log thirty lines when they create a file
    if (folder := artifacts(uri)) is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def prepare_environment() -> None:
    """Set MLflow's variables: no telemetry, and short timeouts; its defaults wait minutes for a dead server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def reason(error: BaseException) -> str:
    """Return the reason why MLflow failed, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and type(cause).__module__.startswith("requests"):
            return "it does not answer"
        cause = cause.__cause__ or cause.__context__
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return first if len(first) <= 200 else f"{first[:200]}..."


def fetch_network(name: str, uri: str, into: Path) -> Path:
    """Copy a network out of the store; its file is then in the folder ``into``.

    Args:
        name: the id of a run, whose smallest finished network is taken; or a registered model, as ``name``, the newest
            version, ``name/3`` or ``name@alias``.
        uri: the store, as :func:`place` gives it.
        into: an empty folder.

    Raises:
        NoStore: the network or the store does not exist.
    """
    if uri.startswith(_FILE) and not Path(uri.removeprefix(_FILE)).exists():
        raise NoStore(f"and there is no {shown(uri)} to ask for it")
    try:
        client = connect(uri)
        from mlflow.artifacts import download_artifacts

        of_run = re.fullmatch(r"[0-9a-f]{32}", name)
        where = _network_of_run(client, name) if of_run else _registered(client, name)
        if logged := re.fullmatch("models:/(m-[0-9a-f]+)", where):
            where = client.get_logged_model(logged[1]).artifact_location
        download_artifacts(where, dst_path=str(into), tracking_uri=uri)
    except Exception as error:  # of MLflow, its database or the network
        raise NoStore(f"and MLflow's store {shown(uri)} does not have it: {reason(error)}") from error
    files = [*into.rglob("*.safetensors")]
    if len(files) != 1:
        raise NoStore(f"and what {shown(uri)} has under that name was not logged by cnnprune")
    return files[0]


def _network_of_run(client: MlflowClient, run_id: str) -> str:
    outputs = client.get_run(run_id).outputs
    models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
    newest = {model.name: model.artifact_location for model in sorted(models, key=lambda m: m.creation_timestamp)}
    for name in NETWORKS:
        if name in newest:
            return str(newest[name])
    raise NoStore("this run has logged no network")


def _registered(client: MlflowClient, name: str) -> str:
    base, separator, version = re.split("([@/])", f"{name}/", maxsplit=1)
    version = version.removesuffix("/")
    if separator == "@":
        version = client.get_model_version_by_alias(base, version).version
    elif not version:
        versions = client.search_model_versions("name='{}'".format(base.replace("'", "")))
        if not versions:
            raise NoStore("it is neither the id of a run nor a registered model")
        version = str(max(int(found.version) for found in versions))
    return str(client.get_model_version_download_uri(base, version))


def is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def save_served(file: Path, into: Path, images: Tensor, *, model_id: str, run_id: str) -> None:
    """Write a network's safetensors file as an MLflow model, with signature and example; nothing is pickled."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    number = np.dtype(np.float32)
    images_in = Schema([TensorSpec(number, (-1, 1, IMAGE_SIZE, IMAGE_SIZE))])
    logits_out = Schema([TensorSpec(number, (-1, len(CLASS_NAMES)))])
    pyfunc.save_model(
        str(into),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={"network": str(file)},
        signature=ModelSignature(inputs=images_in, outputs=logits_out),
        input_example=images.numpy(),
        pip_requirements=["cnnprune-utils", "mlflow"],
    )
