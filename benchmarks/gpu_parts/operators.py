"""Operators: where the time of a bank's chunk and of a tuning step goes, by torch.profiler."""

import functools
from collections.abc import Callable

import bank
import torch
from common import device, synchronize
from measurements import Measurement, Report
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile
from tuning_step import Step, text_tower

from advpt.backbones.precision import in_precision
from gpu_parts.tuning import graphed_step, timed

ROWS = 12


def run(report: Report) -> None:
    works: dict[str, Callable[[], object]] = {}
    name = bank.SMALL if report.small else "ViT-B/16"
    step = Step(text_tower(name), 10 if report.small else 37, 32)
    if device().type == "cuda":
        works["tuning step, CUDA graph"] = graphed_step(step)
    works["tuning step"] = step.ours
    works["CoOp's step"] = step.coop
    clip = bank.backbone(name)
    size = clip.card.image.size[0]
    pixels = torch.rand(2 if report.small else 64, 3, size, size, device=clip.device)
    for precision in ("fp32",) if report.small else ("amp", "fp32"):
        encode = in_precision(clip.require_image(), precision)
        works[f"{clip.name}, forward + input gradient, {precision}"] = functools.partial(bank.step, encode, pixels)
    for label, work in works.items():
        report.attempt(label, 2, examine, report, label, work)


def examine(report: Report, label: str, work: Callable[[], object]) -> None:
    """Share of the time in kernels, in copies and in gaps between them; the dearest operators as a table."""
    cuda, steps = torch.cuda.is_available(), 3 if torch.cuda.is_available() else 1
    for _ in range(steps):
        work()
    wall = timed(work, steps) * steps / 1000  # without the profiler, which slows the host
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as recorded:
        for _ in range(steps):
            work()
        synchronize()
    report.tables[label] = operators(recorded, cuda, steps)
    events = [event for event in recorded.events() if cuda and event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = sum(event.device_time for event in events if "mem" not in event.name.lower()) / 1e6
    copies = sum(event.device_time for event in events if "mem" in event.name.lower()) / 1e6
    note = f"{len(events) // steps} kernels and copies a step" if cuda else "on a CPU there are no kernels to count"
    if cuda:
        note += (
            f"; kernels {100 * kernels / wall:.0f} %, copies {100 * copies / wall:.0f} %, "
            f"gaps {100 * max(0.0, 1 - (kernels + copies) / wall):.0f} % of the time without the profiler"
        )
    report.add(Measurement(label, 1000 * wall / steps, "ms", note=note))


def operators(recorded: profile, cuda: bool, steps: int) -> str:
    """The dearest operators of a step: their own milliseconds, share and number of calls."""
    averages = recorded.key_averages()
    if cuda:  # the kernels, not the operators that launch them
        averages = [each for each in averages if each.device_type == torch.autograd.DeviceType.CUDA]
    times = {each.key: (each.self_device_time_total if cuda else each.self_cpu_time_total) for each in averages}
    calls, total = {each.key: each.count for each in averages}, sum(times.values())
    dearest = sorted(times, key=lambda key: -times[key])[:ROWS]
    rows = [(key[:70], f"{times[key] / 1000 / steps:.3f}", f"{100 * times[key] / total:.1f} %", calls[key] // steps)
            for key in dearest]  # fmt: skip
    return tabulate(rows, ("operator or kernel", "ms", "share", "calls"), tablefmt="simple")
