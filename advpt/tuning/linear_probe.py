"""The linear probe of CLIP's embeddings: L2 logistic regression, its strength chosen on a validation split.

CoOp's ``lpclip``: projected embeddings, not normalised, of centre crops; multinomial L-BFGS, at most 1,000 iterations;
C from a coarse grid of powers of 100, then eight rounds that halve the distance in log C around the best one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from advpt.checkpoints import load_safetensors
from advpt.errors import DataError, WeightsError
from advpt.files import atomic_path
from advpt.prompts.linear import LinearClassifier

FILE = Path("linear_probe", "probe.safetensors")  # in a run's folder
GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
ROUNDS = 8
MAX_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear layer: ``weight [K, L]`` and ``bias [K]`` float32, its C, and whether L-BFGS converged."""

    weight: Tensor
    bias: Tensor
    c: float
    converged: bool

    def classifier(self, device: torch.device | str) -> LinearClassifier:
        return LinearClassifier(self.weight.to(device), 1.0, self.bias.to(device))

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Percent of ``features [n, L]`` whose arg-max is the label ``[n]``."""
        return 100 * float(((features @ self.weight.T + self.bias).argmax(1) == labels).float().mean())


def save(probe: Probe, path: Path) -> None:
    """Write a probe as a safetensors file."""
    tensors = {"weight": probe.weight, "bias": probe.bias, "c": torch.tensor(probe.c).double()}
    with atomic_path(path) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)


def load(path: Path, classes: int, width: int) -> Probe:
    """A probe of ``classes`` K and ``width`` L from its file.

    Raises:
        WeightsError: damaged, or of another shape.
    """
    try:
        saved = load_safetensors(path)
        probe = Probe(saved["weight"], saved["bias"], float(saved["c"]), True)
    except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is not a linear probe, or damaged ({error}); train it again") from error
    if probe.weight.shape != (classes, width) or probe.bias.shape != (classes,):
        raise WeightsError(
            f"{path} holds a probe of shape {list(probe.weight.shape)}, this run needs {[classes, width]}"
        )
    return probe


def fit(features: Tensor, labels: Tensor, classes: int, c: float, iterations: int = MAX_ITERATIONS) -> Probe:
    """Logistic regression on ``features [n, L]`` with ``labels [n]`` in 0 .. ``classes`` - 1.

    Raises:
        DataError: a class has no image.
    """
    from sklearn.exceptions import ConvergenceWarning  # most of a second to import
    from sklearn.linear_model import LogisticRegression

    if absent := sorted(set(range(classes)) - set(labels.tolist())):
        raise DataError(
            f"a linear probe needs images of every class; {len(absent)} of {classes} have none, the first is class "
            f"number {absent[0]}"
        )
    model = LogisticRegression(C=c, max_iter=iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features.double().numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
    if classes == 2:  # scikit-learn keeps the difference of the two rows
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return Probe(weight, bias, c, not any(issubclass(w.category, ConvergenceWarning) for w in caught))


@dataclass(frozen=True, eq=False)
class Data:
    """Embeddings ``[n, L]`` float32 and labels ``[n]`` int64 of K ``classes``, to fit on and (``val_``) to choose C on;
    ``val_are``: the origin of the latter, in words."""

    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor
    classes: int
    val_are: str = "the validation split"


def search(data: Data, iterations: int = MAX_ITERATIONS) -> tuple[Probe, list[tuple[float, float]]]:
    """The probe with the best validation accuracy (the first of equal ones), and every (C, accuracy) tried."""
    tried: dict[float, tuple[float, Probe]] = {}

    def score(c: float) -> float:
        if c not in tried:
            probe = fit(data.features, data.labels, data.classes, c, iterations)
            tried[c] = (probe.accuracy(data.val_features, data.val_labels), probe)
        return tried[c][0]

    peak = max(GRID, key=score)
    left, right = 0.1 * peak, 10 * peak
    for _ in range(ROUNDS):
        if score(left) < score(right):
            left = math.sqrt(left * right)
        else:
            right = math.sqrt(left * right)
    best = max(tried, key=lambda c: tried[c][0])
    return tried[best][1], [(c, accuracy) for c, (accuracy, _) in tried.items()]
