"""Logs a run in MLflow while it runs."""

from __future__ import annotations

import json
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from ..files import fingerprint, write
from .console import say
from .folder import READS
from .groups import Tracking
from .observer import Observer, Stage, Status
from .settings import Settings, flat
from .store import DEFAULT, NoStore, artifacts, connect, place, reason, save_served, shown

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from torch import Tensor, nn

RECORD = "mlflow.json"
"""File in the folder of a run: its id in MLflow, and what was logged, so that nothing is logged twice."""

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
P = ParamSpec("P")


def _unless_lost(tell: Callable[Concatenate[Tracker, P], None]) -> Callable[Concatenate[Tracker, P], None]:
    """Turn errors of tracking into one warning, and stop tracking: the run itself must not end."""

    @wraps(tell)
    def safe(self: Tracker, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.lost:
            return
        try:
            tell(self, *args, **kwargs)
        except Exception as error:  # of MLflow, its database, the network or the disk
            self.lost = True
            self.warn(error)

    return safe


class Tracker(Observer):
    """Logs parameters, metrics, files and networks. Without MLflow or its server, it warns once, and the run continues.

    Args:
        settings: the store and the experiment.
        new_run: start a new run in MLflow, also if the folder has one there already.
    """

    def __init__(self, settings: Tracking, *, new_run: bool = False) -> None:
        self.uri = place(settings.uri)
        self.experiment = settings.experiment
        self.new_run = new_run
        self.lost = False
        self.told: dict[str, str] = {}  # what MLflow has: name -> SHA-256
        self.epochs: dict[Stage, set[int]] = {}

    def warn(self, error: Exception) -> None:
        if isinstance(error, NoStore):
            text = f"{error}. This run is kept in {self.folder} only"
        else:
            text = (
                f"MLflow, {shown(self.uri)}: {reason(error)}. The run continues; everything is kept in {self.folder}, "
            )
            text += "and the next command for it logs the rest"
        say(f"warning: {text}", sys.stderr)

    @_unless_lost
    def start(self, folder: Path, settings: Settings, versions: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.client = connect(self.uri)
        run = None if self.new_run else self._known()
        if run is None:
            tags = {"mlflow.source.name": "cnnprune", "mlflow.source.type": "LOCAL", "seed": str(settings.seed)}
            tags |= {f"version.{name}": str(value) for name, value in versions.items() if name != "seed"}
            if commit := versions.get("git_commit"):
                tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
            name = folder.resolve().name
            run = self.client.create_run(self._experiment(), tags=tags, run_name=name)
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.id = run.info.run_id
        self._keep()

    @_unless_lost
    def step(self, name: str, done: bool) -> None:
        from mlflow.entities import Param

        if params := self._params(READS[name]):
            self.client.log_batch(
                self.id, params=[Param(key, value) for key, value in params.items()], synchronous=True
            )

    @_unless_lost
    def epoch(self, stage: Stage, row: Mapping[str, float]) -> None:
        if stage not in self.epochs:
            history = self.client.get_metric_history(self.id, f"{stage}/validation_accuracy")
            self.epochs[stage] = {metric.step for metric in history}
        epoch = int(row["epoch"])
        if epoch not in self.epochs[stage]:
            self._metrics({f"{stage}/{name}": row[name] for name in row if name != "epoch"}, epoch)
            self.epochs[stage].add(epoch)

    @_unless_lost
    def table(self, name: str, table: pd.DataFrame) -> None:
        if name == "comparison" and self._is_new(name, table.to_csv().encode()):
            names = {"accuracy": "test_accuracy"}
            for model, *_ in table.itertuples(index=False):
                row = table.set_index("model").loc[model]
                self._metrics({f"{model}/{names.get(str(key), key)}": float(value) for key, value in row.items()}, 0)
            self._keep()

    @_unless_lost
    def model(self, name: str, file: Path, model: nn.Module, images: Tensor) -> None:
        if not self._is_new(name, file.read_bytes()):
            return
        from mlflow.entities import LoggedModelOutput

        experiment = self.client.get_run(self.id).info.experiment_id
        logged = self.client.create_logged_model(experiment, name=name, source_run_id=self.id)
        with tempfile.TemporaryDirectory() as folder:
            save_served(file, Path(folder, name), images, model_id=logged.model_id, run_id=self.id)
            self.client.log_model_artifacts(logged.model_id, str(Path(folder, name)))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(self.id, [LoggedModelOutput(logged.model_id, step=0)])
        self._keep()

    @_unless_lost
    def file(self, path: Path) -> None:
        if path.suffix == ".safetensors":
            return  # the model has it
        inside = path.relative_to(self.folder)
        if self._is_new(inside.as_posix(), path.read_bytes()):
            where = inside.parent.as_posix()
            self.client.log_artifact(self.id, str(path), None if where == "." else where)
            self._keep()

    def end(self, status: Status, error: str = "") -> None:
        self._terminate(status, error)
        if not self.lost:
            elsewhere = "" if self.uri == place(DEFAULT) else f" --tracking.uri {shlex.quote(shown(self.uri))}"
            look = f"cnnprune ui{elsewhere}" if artifacts(self.uri) else shown(self.uri)
            say(f"MLflow: run {self.id}, experiment {self.experiment}, in {shown(self.uri)}; to look: {look}")

    @_unless_lost
    def _terminate(self, status: Status, error: str) -> None:
        if error:
            self.client.set_tag(self.id, "error", error[:500])
        self.client.set_terminated(self.id, _STATUS[status])

    def _known(self) -> Run | None:
        """Return the run that was begun for this folder, if the store still has it, with the same parameters."""
        from mlflow.exceptions import MlflowException

        try:
            record = json.loads((self.folder / RECORD).read_text())
            if record["uri"] != self.uri:
                return None
            run = self.client.get_run(record["run_id"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        now = self._params(name for names in READS.values() for name in names)
        if run.info.lifecycle_stage != "active" or any(now.get(k, v) != v for k, v in run.data.params.items()):
            return None
        if self.client.get_experiment(run.info.experiment_id).name != self.experiment:
            return None
        self.told = record["told"]
        return run

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise NoStore(
                f"MLflow, {shown(self.uri)}: the experiment {self.experiment} was deleted; restore it, or name another "
                "with --tracking.experiment"
            )
        if found is not None:
            return str(found.experiment_id)
        folder = artifacts(self.uri)
        return self.client.create_experiment(self.experiment, folder.as_uri() if folder else None)

    def _params(self, sections: Any) -> dict[str, str]:
        values = asdict(self.settings)
        found = {key: str(value) for name in sections for key, value in flat(name, values[name]).items()}
        found.pop("data.root", None)  # the same images, wherever they are
        return found

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)]
        self.client.log_batch(self.id, metrics=metrics, synchronous=True)

    def _is_new(self, name: str, content: bytes) -> bool:
        """Return whether MLflow lacks this; call :meth:`_keep` once it is logged."""
        sha = fingerprint([content])
        if self.told.get(name) == sha:
            return False
        self.told[name] = sha
        return True

    def _keep(self) -> None:
        record = {"uri": self.uri, "run_id": self.id, "told": self.told}
        write(self.folder / RECORD, json.dumps(record, indent=2).encode())
