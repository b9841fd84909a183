"""The figure of what was measured while methods were tuned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from advpt.evaluation.record import CleanAccuracy, Record, runs
from advpt.results.exhibit import Figure
from advpt.results.figures import DrawnPoint
from advpt.results.values import Value


def training_curves(records: Sequence[Record]) -> tuple[Figure, list[DrawnPoint]]:
    """The figure of the accuracies that were measured while methods were tuned, means over seeds; without points where
    none was. A panel for each data set and backbone."""
    by_run = {(r.dataset, r.backbone.name, r.trainer, r.shots, r.seed): each for each in records for r in [each.result]}
    by: dict[tuple[str, str, int], dict[int, tuple[CleanAccuracy, str]]] = defaultdict(dict)
    for (dataset, backbone, trainer, shots, seed), record in sorted(by_run.items(), key=lambda item: item[0]):
        name = trainer if shots < 0 else f"{trainer}, {shots} shots"
        for point in record.result.training.curve:
            by[f"{dataset}, {backbone}", f"{name}, clean", point.epoch][seed] = point.clean, record.id
            if point.robust is not None:
                series = f"{name}, {point.attack or 'attacked'}, {point.protocol or 'transfer'}"
                by[f"{dataset}, {backbone}", series, point.epoch][seed] = point.robust, record.id
    points = []
    for (panel, series, epoch), by_seed in by.items():
        measured_by = runs({seed: part for seed, (part, _) in by_seed.items()}, trained=True)
        ids, x = tuple(i for _, i in by_seed.values()), float(epoch)
        points.append(DrawnPoint(panel, series, f"epoch {epoch}", (x, x, x), Value("value", measured_by, ids), ids))
    title, text = "Training curves", "Accuracy on test images while the prompts were tuned, means over seeds."
    return Figure("training_curves", title, text, "lines", "epoch", "accuracy (%)"), points
