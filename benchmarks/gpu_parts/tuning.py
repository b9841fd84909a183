"""Tuning: milliseconds of a step against CoOp's 77-token step, in float32 and bfloat16, with CUDA graphs, compiled, and
three seeds at once."""

import functools
import gc
from collections.abc import Callable
from typing import Any

from bank import SMALL
from common import alternate, device
from measurements import Report
from torch import Tensor
from tuning_step import Step, batched_step, text_tower

from advpt.backbones.precision import half_precision
from advpt.prompts.cuda_graph import TextFeatures

VECTORS = 32
WANTED = 10.0  # at K = 37
COMPILE_SECONDS = 40


def run(report: Report) -> None:
    for name in (SMALL,) if report.small else ("ViT-B/16", "ViT-L/14"):
        model = text_tower(name)
        for classes in (10,) if report.small else (37, 397, 1000):
            report.attempt(f"{name}, K = {classes}", 10, measure, report, name, model, classes)
        if not report.small:
            report.attempt(f"{name} compiled", COMPILE_SECONDS, measure_compiled, report, name, model, 37)


def measure(report: Report, name: str, model: Any, classes: int) -> None:
    label = f"{name}, K = {classes}"
    for precision in ("fp32",) if report.small else ("fp32", "amp"):
        step = Step(model, classes, VECTORS, precision=precision)
        coop = milliseconds(step.coop, report)
        report.compare(f"{label}, {precision}", milliseconds(step.ours, report), coop, "ms")
        if device().type == "cuda":
            graphed = graphed_step(step)
            _, expected = step.ours()
            _, gradient = graphed()
            apart = float((gradient - expected).norm() / expected.norm())
            note, wanted = f"context gradient within {apart:.1e} of plain", WANTED if classes == 37 else None
            with_graph = milliseconds(graphed, report)
            report.compare(f"{label}, {precision}, CUDA graph", with_graph, coop, "ms", wanted, note)
        steps = [Step(model, classes, VECTORS, seed, precision) for seed in (1, 2, 3)]
        together = milliseconds(functools.partial(batched_step, steps), report)
        report.compare(f"{label}, {precision}, three seeds in one batch", together, 3 * coop, "ms",
                       note="against three steps of CoOp")  # fmt: skip
        del steps
        gc.collect()


def measure_compiled(report: Report, name: str, model: Any, classes: int) -> None:
    step = Step(model, classes, VECTORS)
    coop = milliseconds(step.coop, report)
    step.encoder.compile()
    label = f"{name}, K = {classes}, fp32, compiled"
    report.compare(label, milliseconds(step.ours, report), coop, "ms")
    report.compare(f"{label}, CUDA graph", milliseconds(graphed_step(step), report), coop, "ms")


def graphed_step(step: Step) -> Callable[[], tuple[Tensor, Tensor]]:
    """Our step, its prompts and encoder replayed from CUDA graphs."""
    features = TextFeatures(step.prompts, step.encoder, graphs=True)

    def work() -> tuple[Tensor, Tensor]:
        with half_precision(step.precision, device()):
            text = features()
        if not features.graphs:
            raise RuntimeError("the capture of a CUDA graph failed; the log says why")
        return step.backward(text)

    return work


def milliseconds(work: Callable[[], object], report: Report) -> float:
    """The best mean of a few rounds of a few steps, after warm ones; fewer of slow steps."""
    if report.small:
        return timed(work, 1)
    for _ in range(2):
        work()
    slow = timed(work, 1) > 100
    rounds, steps = (2, 1) if slow else (3, 5)
    return min(timed(work, steps) for _ in range(rounds))


def timed(work: Callable[[], object], steps: int) -> float:
    """Milliseconds a step."""

    def several() -> None:
        for _ in range(steps):
            work()

    return 1000 * alternate({"several": several}, 1, warm=False)["several"] / steps
