"""How the tuning step grows with classes and context vectors, and the bank's rate with the chunk; two plots."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from bank import backbone, step
from common import alternate, device
from matplotlib.figure import Figure
from tabulate import tabulate
from tuning_step import Step, seconds_and_floor, text_tower

CLASSES, VECTORS, CHUNKS = (10, 37, 101, 397, 1000), (4, 16, 32), (1, 2, 4, 8, 16, 32)
Rows = Sequence[Mapping[str, float]]


def run(quick: bool = False) -> dict[str, Rows]:
    model = text_tower()
    classes, chunks = (CLASSES[:3], CHUNKS[:3]) if quick else (CLASSES, CHUNKS)
    tuning = []
    for k in classes:
        for m in VECTORS:
            seconds, floor = seconds_and_floor(Step(model, k, m), 1 if k > 100 else 3)
            tuning.append({"classes": k, "vectors": m, "seconds": seconds, "floor": floor, "of_floor": seconds / floor})
    encode = backbone("ViT-B/32").require_image()
    rates = []
    for chunk in (*chunks, 64, 128, 256) if torch.cuda.is_available() else chunks:
        pixels = torch.rand(chunk, 3, 224, 224, device=device())
        seconds = alternate({"bank": functools.partial(step, encode, pixels)}, 2)["bank"]
        rates.append({"chunk": chunk, "images_per_second": chunk / seconds})
    return {"tuning": tuning, "bank": rates}


def describe(measured: Mapping[str, Rows]) -> str:
    """Both plots and their figures as Markdown."""
    steps = [[r["classes"], r["vectors"], f"{r['seconds']:.3f}", f"{r['of_floor']:.2f}x"] for r in measured["tuning"]]
    rates = [[r["chunk"], f"{r['images_per_second']:.2f}"] for r in measured["bank"]]
    parts = [
        "## Scaling",
        "![tuning step](scaling_tuning.png) ![bank](scaling_bank.png)",
        "Tuning step, ViT-B/16's text tower, batch 32:",
        tabulate(steps, ("K", "M", "seconds", "of the floor"), tablefmt="github"),
        "Bank, ViT-B/32, forward + input gradient:",
        tabulate(rates, ("chunk", "images/s"), tablefmt="github"),
    ]
    return "\n\n".join(parts) + "\n"


def draw(measured: Mapping[str, Rows], folder: Path) -> list[Path]:
    """``scaling_tuning.png`` and ``scaling_bank.png``."""
    figures = [Figure(figsize=(5, 3.4), layout="constrained") for _ in range(2)]
    tuning, bank = (figure.add_subplot() for figure in figures)
    for m in VECTORS:
        rows = [row for row in measured["tuning"] if row["vectors"] == m]
        classes = [row["classes"] for row in rows]
        (line,) = tuning.plot(classes, [row["seconds"] for row in rows], marker="o", label=f"M = {m}")
        tuning.plot(classes, [row["floor"] for row in rows], ":", color=line.get_color())
    tuning.set(xscale="log", yscale="log", xlabel="classes K", ylabel="seconds per tuning step (dotted: floor)")
    tuning.legend()
    rates = measured["bank"]
    bank.plot([row["chunk"] for row in rates], [row["images_per_second"] for row in rates], marker="o")
    bank.set(xlabel="images per forward (BANK.CHUNK), ViT-B/32", ylabel="forward + input gradient, images per second")
    bank.set(xscale="log", ylim=(0, None))
    paths = [folder / "scaling_tuning.png", folder / "scaling_bank.png"]
    for axis, figure, path in zip((tuning, bank), figures, paths):
        axis.grid(alpha=0.3)
        figure.savefig(path, dpi=120)
    return paths
