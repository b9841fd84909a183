"""Text features of learned prompts, replayed from CUDA graphs (``MODEL.CUDA_GRAPHS``).

A tuning step of few classes is hundreds of small kernels, and the host takes longer to launch them than the card to run
them. A graph launches all of them at once. It runs the same kernels, so the numbers are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from advpt.backbones.text_encoder import TextEncoder
from advpt.prompts.learner import PromptLearner

log = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], ...]


class TextFeatures:
    """Learned prompts to text features: what a tuning step computes, with its backward pass.

    On a CUDA device the forward and backward pass are captured at their first use, one graph for each combination of
    shapes, and replayed from then on. Elsewhere, without gradients, and where a capture fails, they run as they are.

    Args:
        learner: the prompts, of a layout without visual prompts.
        encoder: the frozen text tower.
        graphs: whether to capture at all.
    """

    def __init__(self, learner: PromptLearner, encoder: TextEncoder, graphs: bool) -> None:
        self.learner, self.encoder, self.graphs = learner, encoder, graphs
        self._captured: dict[Shapes, Callable[..., Tensor]] = {}

    def __call__(self, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features ``[K, L]``, not normalised, of the learner's parameters or of ``values`` in their place (``[S, K,
        L]`` where these have a leading dimension S). Those from a graph lie in memory that the next call uses again."""
        named = dict(self.learner.named_parameters()) if values is None else dict(values)
        if not self.can_capture(named.values()):
            return self._encode(named)
        shapes = tuple(tuple(value.shape) for value in named.values())
        if shapes not in self._captured:
            try:
                self._captured[shapes] = self._capture(named)
            except RuntimeError as error:  # out of memory among them
                self.graphs = False
                log.warning("tuning goes on without CUDA graphs: %s", str(error).splitlines()[0])
                return self._encode(named)
        return self._captured[shapes](*named.values())

    def can_capture(self, tensors: Iterable[Tensor]) -> bool:
        """Whether a pass over these is one that a graph can replay."""
        return self.graphs and torch.is_grad_enabled() and all(tensor.is_cuda for tensor in tensors)

    def clear(self) -> None:
        """Free the memory of the graphs."""
        self._captured.clear()

    def _encode(self, values: Mapping[str, Tensor]) -> Tensor:
        return self.encoder(self.learner(values).text)

    def _capture(self, values: Mapping[str, Tensor]) -> Callable[..., Tensor]:
        names, enabled, dtype = list(values), torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")

        def encode(*tensors: Tensor) -> Tensor:
            # without autocast's cache of weights, which would outlive the capture
            with torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False):
                return self._encode(dict(zip(names, tensors)))

        examples = tuple(value.detach().clone().requires_grad_() for value in values.values())
        with torch.autocast("cuda", enabled=False):
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(encode, examples)
        return graphed
