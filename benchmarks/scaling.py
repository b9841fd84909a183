"""How the tuning step grows with classes and context vectors, and the bank's rate with the chunk; two plots."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from bank import backbone, step
from common import alternate, device, median
from tuning_step import Step, seconds_and_floor, text_tower

CLASSES, VECTORS, CHUNKS = (10, 37, 101, 397, 1000), (4, 16, 32), (1, 2, 4, 8, 16, 32)


def run(quick: bool = False) -> dict[str, list[dict[str, float]]]:
    model = text_tower()
    classes, chunks = (CLASSES[:3], CHUNKS[:3]) if quick else (CLASSES, CHUNKS)
    tuning = []
    for k in classes:
        for m in VECTORS:
            tuned = Step(model, k, m)
            seconds, floor = seconds_and_floor(tuned, 1 if k > 100 else 3)
            tuning.append({"classes": k, "vectors": m, "seconds": seconds, "floor": floor, "of_floor": seconds / floor})
    clip = backbone("ViT-B/32")
    sizes = (*chunks, 64, 128, 256) if torch.cuda.is_available() else chunks
    rates = []
    for chunk in sizes:
        pixels = torch.rand(chunk, 3, 224, 224, device=device())
        work = functools.partial(step, clip.require_image(), pixels)
        seconds = median(alternate({"bank": work}, 2)["bank"])
        rates.append({"chunk": chunk, "images_per_second": chunk / seconds})
    return {"tuning": tuning, "bank": rates}


def draw(found: dict[str, list[dict[str, float]]], folder: Path) -> list[Path]:
    """``scaling_tuning.png`` and ``scaling_bank.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for m in VECTORS:
        rows = [row for row in found["tuning"] if row["vectors"] == m]
        (line,) = axis.plot([r["classes"] for r in rows], [r["seconds"] for r in rows], marker="o", label=f"M = {m}")
        axis.plot([r["classes"] for r in rows], [r["floor"] for r in rows], ":", color=line.get_color())
    axis.set(xscale="log", yscale="log", xlabel="classes K", ylabel="seconds per tuning step (dotted: floor)")
    axis.grid(alpha=0.3)
    axis.legend()
    paths.append(folder / "scaling_tuning.png")
    figure.savefig(paths[-1], dpi=120)
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.plot([r["chunk"] for r in found["bank"]], [r["images_per_second"] for r in found["bank"]], marker="o")
    axis.set(xscale="log", xlabel="images per forward (BANK.CHUNK), ViT-B/32", ylim=(0, None))
    axis.set_ylabel("forward + input gradient, images per second")
    axis.grid(alpha=0.3)
    paths.append(folder / "scaling_bank.png")
    figure.savefig(paths[-1], dpi=120)
    return paths
