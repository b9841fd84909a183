"""How many steps, and how many draws in each, an attack on a defense at test time needs: accuracy over both, on a few
digits under DemoCLIP. Writes a figure (PNG) and its numbers (CSV).

    python benchmarks/test_time_strength.py --output docs          # ten minutes on two cores

Each defense is attacked through one of its variants: the mean of views for defenses over several views, constant
perturbations for those that perturb the image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from advpt.attacks import parse as parse_attack
from advpt.attacks.noise import SampleNoise
from advpt.backbones.backbone import Backbone
from advpt.backbones.load import load_backbone
from advpt.bank.defended_input import CachedForward
from advpt.data import demo_sets
from advpt.data.images import ImageSet, Preprocessing, Sample
from advpt.data.views import generator_of
from advpt.evaluation.intervals import Runs
from advpt.files import write_text
from advpt.prompts.classifier import from_templates
from advpt.results import figures
from advpt.results.exhibit import Figure
from advpt.results.figures import DrawnPoint
from advpt.results.values import Value
from advpt.settings import BackboneSettings
from advpt.test_time import parse as parse_defense
from advpt.test_time.base import DefendedModel, Draws, TestTimeDefense, Variant

DEFENSES = {"mean": "mean of views", "rtpt": "mean of views", "ttc": "frozen delta"}
NAME = "test_time_strength"
TEMPLATE = "a photo of a {}."


def digits(folder: Path, n: int) -> ImageSet:
    """The first ``n`` images of the digits' test split, as an evaluation of so many takes them."""
    rows = {row[0]: row for row in demo_sets.DIGITS.split().test}
    samples = tuple(Sample(name, str(folder / name), label) for name, label, _ in rows.values())
    names = tuple(dict.fromkeys(name for _, _, name in rows.values()))
    images = ImageSet("Digits", "test", samples, names, Preprocessing((32, 32), "bicubic")).first(n)
    for sample in images.samples:
        path = Path(sample.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        demo_sets.DIGITS.draw(folder, rows[sample.id]).save(path)
    return images


def defended_model(clip: Backbone, names: Sequence[str]) -> DefendedModel:
    """DemoCLIP with the prompt that R-TPT starts from, so that it shares attacks with the mean over views."""
    classifier = from_templates(clip.text, names, [TEMPLATE], clip.logit_scale)
    return DefendedModel(classifier, clip.text, tuple(names), clip.card)


class Strength:
    """Attacks on the same images, each made once for all defenses that share its variant."""

    def __init__(self, clip: Backbone, images: ImageSet, eps: float) -> None:
        self.encode, self.eps = clip.require_image(), eps
        (batch,) = images.batches(range(len(images)), len(images))
        self.pixels, self.labels = batch.pixels, batch.labels
        self.ids = [sample.id for sample in images.samples]
        self._made: dict[tuple[str, int, int], Tensor] = {}

    def correct(self, defense: TestTimeDefense, variant: Variant, steps: int, draws: int) -> Tensor:
        """``[n]`` bool: which attacked images the defense classifies correctly."""
        key = (str(variant.parameters), steps, draws)
        if key not in self._made:
            self._made[key] = self._attack(variant, steps, draws)
        logits = defense(self._made[key], self.ids, False, CachedForward(self.encode))
        return logits.argmax(1) == self.labels

    def _attack(self, variant: Variant, steps: int, draws: int) -> Tensor:
        attack = parse_attack(f"pgd{steps}-ce@{self.eps:g}").with_eot(draws).build()
        generator = generator_of(0, "attacker", *self.ids)

        def forward(pixels: Tensor) -> Tensor:
            return variant.logits(self.encode, pixels, Draws.of_attacker(generator, len(pixels)))

        noise = SampleNoise([f"start {name}" for name in self.ids], 0)
        return attack(forward, self.pixels, self.labels, noise).images


def runs(steps: Sequence[int], draws: Sequence[int], at: int) -> Iterator[tuple[str, int, int, int]]:
    """Panel, place on its axis, steps and draws of every attack."""
    for n in steps:
        yield "steps, one draw in each", n, n, 1
    for n in draws:
        yield f"draws in each of {at} steps", n, at, n


def measure(args: argparse.Namespace) -> list[DrawnPoint]:
    """The points of the figure."""
    clip = load_backbone(BackboneSettings("DemoCLIP", "", False), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        images = digits(Path(folder), args.images)
        strength = Strength(clip, images, args.eps)
    model, points = defended_model(clip, images.classnames), []
    for text, name in DEFENSES.items():
        defense = parse_defense(text).build(model)
        variant = next(each for each in defense.variants() if each.name == name)
        for panel, x, steps, draws in runs(args.steps, args.draws, args.at):
            started = time.perf_counter()
            correct = strength.correct(defense, variant, steps, draws)
            percent = 100 * float(correct.float().mean())
            value = Value("value", Runs({0: percent}, {0: correct.numpy()}, len(correct), trained=False))
            points.append(DrawnPoint(panel, f"{text}, through {name}", f"{x}", (x, x, x), value, ()))
            print(f"{text:6} {panel:28} {x:4} {percent:5.1f} %  {time.perf_counter() - started:6.1f} s", flush=True)
    return points


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--eps", type=float, default=4.0, help="in 1/255")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--at", type=int, default=100, help="steps of the attacks with several draws")
    parser.add_argument("--output", type=Path, default=Path("output", "test_time_strength"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    args = parse_args(words)
    args.output.mkdir(parents=True, exist_ok=True)
    points = measure(args)
    title = f"PGD on the cross-entropy at {args.eps:g}/255, {args.images} images"
    figure = Figure(NAME, title, "", "lines", "steps or draws", "accuracy (%)", log_x=True)
    with tempfile.TemporaryDirectory() as folder:
        png, _, table = figures.draw(figure, points, Path(folder))
        (args.output / png.name).write_bytes(png.read_bytes())
        write_text(args.output / table.name, table.read_text(encoding="utf-8"))
    print(args.output / png.name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
