"""A network of a run, as MLflow serves it: this file travels in the model, beside the network's safetensors file.

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
    """Images, float32 (n, 1, 28, 28), light on dark, from 0 to 1; to logits, float32 (n, 10)."""

    def load_context(self, context: PythonModelContext) -> None:
        self.network = load_model(context.artifacts["network"]).eval()

    # MLflow knows np.ndarray alone: of any other type, and of none, it complains
    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: Any = None) -> Any:
        with torch.no_grad():
            return self.network(torch.from_numpy(np.array(model_input, dtype=np.float32))).numpy()


set_model(Network())
