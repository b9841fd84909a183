"""Classification results, printed in Dassl's block."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.evaluation.build import EVALUATOR_REGISTRY


class EvaluatorBase:
    """Interface: reset, then process each batch, then evaluate."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: Tensor, gt: Tensor) -> None:
        raise NotImplementedError

    def evaluate(self) -> "OrderedDict[str, float]":
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, in percent.

    Args:
        lab2cname: label to class name, needed with ``TEST.PER_CLASS_RESULT``.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise AssertionError("TEST.PER_CLASS_RESULT needs lab2cname, the class names by label")
        self._lab2cname = lab2cname
        self.reset()

    def reset(self) -> None:
        self._total = 0
        self._correct = 0
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add a batch: ``mo`` ``(B, C)`` scores, ``gt`` ``(B,)`` labels."""
        guess = mo.argmax(1)
        self._correct += int((guess == gt).sum())
        self._total += gt.shape[0]
        self._y_true.extend(gt.tolist())
        self._y_pred.extend(guess.tolist())

    def evaluate(self) -> "OrderedDict[str, float]":
        """Print the result block and return its numbers; ZeroDivisionError without a sample."""
        if self._total == 0:
            raise ZeroDivisionError("nothing to evaluate: no sample was processed (is the split empty?)")
        # labels that occur in either list, [L], and counts, [L, L]: row = truth, column = guess
        labels, index = np.unique([self._y_true, self._y_pred], return_inverse=True)
        truth, guess = index.reshape(2, -1)
        counts = np.zeros((len(labels), len(labels)), dtype=int)
        np.add.at(counts, (truth, guess), 1)
        support, predicted, hits = counts.sum(1), counts.sum(0), counts.diagonal()
        present = support > 0
        f1 = 2.0 * hits[present] / (support + predicted)[present]

        accuracy, macro_f1 = 100.0 * self._correct / self._total, 100.0 * float(f1.mean())
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1)
        print(
            "=> result\n"
            f"* total: {self._total:,}\n"
            f"* correct: {self._correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {macro_f1:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(labels[present], hits[present], support[present])
        if self.cfg.TEST.COMPUTE_CMAT:
            matrix = counts / np.maximum(support, 1)[:, None]
            path = Path(self.cfg.OUTPUT_DIR) / "cmat.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(torch.from_numpy(matrix), path)
            print(f"Confusion matrix is saved to {path}")
        return results

    def _per_class(self, labels: np.ndarray, hits: np.ndarray, support: np.ndarray) -> float:
        names = self._lab2cname or {}
        print("=> per-class result")
        accuracies = []
        for label, hit, total in zip(labels.tolist(), hits.tolist(), support.tolist(), strict=True):
            accuracies.append(100.0 * hit / total)
            print(
                f"* class: {label} ({names.get(label, '?')})\ttotal: {total:,}\tcorrect: {hit:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        average = sum(accuracies) / len(accuracies)
        print(f"* average: {average:.1f}%")
        return average
