"""Tuning: milliseconds of a step against CoOp's 77-token step, in float32 and bfloat16, with CUDA graphs, compiled, and
three seeds at once."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Sequence

import torch
from common import device, synchronize
from measurements import Measurement, Report
from torch import Tensor
from tuning_step import Step, coop_forward

from advpt.backbones.precision import half_precision
from advpt.prompts.cuda_graph import TextFeatures
from gpu_parts import SMALL, text_model

VECTORS = 32
WANTED = 10.0  # at K = 37
COMPILE_SECONDS = 60


def run(report: Report) -> None:
    names = (SMALL,) if report.small else ("ViT-B/16", "ViT-L/14")
    for name in names:
        model = text_model(name, report)
        for classes in (10,) if report.small else (37, 397, 1000):
            with report.step(f"{name}, K = {classes}"):
                if report.has_time(f"{name}, K = {classes}", 8):
                    measure(report, name, model, classes)
    if report.small:
        return
    for name in names:
        with report.step(f"{name} compiled"):
            if report.has_time(f"{name} compiled", COMPILE_SECONDS):
                measure_compiled(report, name, text_model(name, report), 37)


def measure(report: Report, name: str, model, classes: int) -> None:
    label, reference = f"{name}, K = {classes}", {}
    for precision in ("fp32",) if report.small else ("fp32", "amp"):
        step = Step(model, classes, VECTORS, precision=precision)
        reference[precision] = milliseconds(functools.partial(coop_step, step), report)
        plain = milliseconds(step.ours, report)
        add(report, f"{label}, {precision}", plain, reference[precision])
        if device().type == "cuda":
            graphed = graphed_step(step)
            _, expected = step.ours()
            _, gradient = graphed()
            apart = float((gradient - expected).norm() / expected.norm())
            add(report, f"{label}, {precision}, CUDA graph", milliseconds(graphed, report), reference[precision],
                f"context gradient within {apart:.1e} of plain", WANTED if classes == 37 else None)  # fmt: skip
        steps = [Step(model, classes, VECTORS, seed, precision) for seed in (1, 2, 3)]
        together = milliseconds(functools.partial(batched_step, steps), report)
        add(report, f"{label}, {precision}, three seeds in one batch", together, 3 * reference[precision],
            "against three steps of CoOp")  # fmt: skip
        del steps
        gc.collect()


def measure_compiled(report: Report, name: str, model, classes: int) -> None:
    step = Step(model, classes, VECTORS)
    reference = milliseconds(functools.partial(coop_step, step), report)
    step.encoder.compile()
    add(report, f"{name}, K = {classes}, fp32, compiled", milliseconds(step.ours, report), reference)
    graphed = graphed_step(step)
    add(report, f"{name}, K = {classes}, fp32, compiled, CUDA graph", milliseconds(graphed, report), reference)


def batched_step(steps: Sequence[Step]) -> None:
    """The steps of several seeds: one forward over the prompts of all."""
    values = {"ctx": torch.stack([step.prompts.ctx for step in steps])}
    with half_precision(steps[0].precision, device()):
        text = steps[0].encoder(steps[0].prompts(values).text)
    torch.stack([step.loss(part) for step, part in zip(steps, text)]).sum().backward()


def coop_step(step: Step) -> tuple[Tensor, Tensor]:
    """CoOp's step in the precision of ``step``."""
    with half_precision(step.precision, device()):
        text = coop_forward(step.model, step.prompts, step.names)
    return step.backward(text)


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


def add(report: Report, label: str, ours: float, coop: float, note: str = "", wanted: float | None = None) -> None:
    ratio = coop / ours
    report.add(Measurement(label, ours, "ms", coop, ratio, f"{wanted:g}x" if wanted else "",
                           ratio >= wanted if wanted else None, note))  # fmt: skip


def milliseconds(work: Callable[[], object], report: Report) -> float:
    """The best mean of three rounds of a few steps, after warm ones."""
    rounds, steps, warm = (1, 1, 1) if report.small else (3, 5, 3)
    for _ in range(warm):
        work()
    means = []
    for _ in range(rounds):
        synchronize()
        means.append(timed(work, steps))
    return min(means)


def timed(work: Callable[[], object], steps: int) -> float:
    """Milliseconds a step, by the device's own clock where it has one."""
    if device().type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / steps
    began = time.perf_counter()
    for _ in range(steps):
        work()
    return 1000 * (time.perf_counter() - began) / steps
