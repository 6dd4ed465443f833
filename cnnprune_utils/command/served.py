"""A network of a run, as MLflow serves it: this file is stored in the model, beside the network's safetensors file.

MLflow runs this file when it loads the model ("models from code"), so nothing is pickled. It needs cnnprune_utils.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from cnnprune_utils.saving import load_model


class Network(PythonModel):
    """Maps images, float32 (n, 1, 28, 28) in [0, 1], light on dark, to logits, float32 (n, 10)."""

    def load_context(self, context: PythonModelContext) -> None:
        self.network = load_model(context.artifacts["network"]).eval()

    # MLflow warns of every type but np.ndarray, and of a missing one
    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: Any = None) -> Any:
        with torch.no_grad():
            return self.network(torch.from_numpy(np.array(model_input, dtype=np.float32))).numpy()


set_model(Network())
