"""Records as JSON values, for tests of what stands in files."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from advpt.evaluation.record import Accuracy, RunFacts
from advpt.schema import JsonObject, from_json, to_json

FACTS = RunFacts(dataset="Tiny", trainer="AdvPT", seed=1, config={})


def accuracy(correct: Tensor) -> JsonObject:
    """The part of a record for ``correct [n]`` bool."""
    return to_json(Accuracy.of(correct))


def outcome(part: JsonObject) -> np.ndarray:
    """``[n]`` bool: the images of a record's part that were classified correctly."""
    return from_json(Accuracy, part).outcomes()
