"""Test-time defenses over views: batched, on shared embeddings, against plain code that goes image by image (each view
cropped by itself, CLIP's own towers, a graph for the text of every image, nothing shared), which passes the image tower
once for every view, or once for all views of an image.

    python benchmarks/multi_view.py                         # DemoCLIP, all methods
    python benchmarks/multi_view.py ViT-B/32 mean rtpt      # random weights, 224 pixels
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from bank import SMALL, backbone  # noqa: E402
from common import alternate, device  # noqa: E402
from measurements import Report, describe  # noqa: E402
from tapt import DIGITS, digits  # noqa: E402
from torch import Tensor  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402
from torchvision.transforms import functional as TF  # noqa: E402
from tuning_step import coop_forward  # noqa: E402

from advpt.backbones.clip import Backbone  # noqa: E402
from advpt.bank.defended_input import CachedForward, Encode  # noqa: E402
from advpt.data import views  # noqa: E402
from advpt.data.weak import weak_augmentation  # noqa: E402
from advpt.prompts.adamw import BETAS, DECAY, EPS  # noqa: E402
from advpt.prompts.classifier import from_templates  # noqa: E402
from advpt.test_time import TEST_TIME, parse  # noqa: E402
from advpt.test_time.base import DefendedModel, Draws, TestTimeDefense  # noqa: E402
from advpt.test_time.ensemble import TTE  # noqa: E402
from advpt.test_time.multi_view import MultiView  # noqa: E402
from advpt.test_time.prompt_tuning import PromptTuning, ViewFeatures  # noqa: E402
from advpt.test_time.selection import choose, kept_count  # noqa: E402
from advpt.test_time.sstpt import SSTPT  # noqa: E402

WANTED = 3.0
METHODS = tuple(name for name in TEST_TIME if issubclass(TEST_TIME.get(name), (MultiView, TTE)))


def defended(clip: Backbone, names: list[str]) -> DefendedModel:
    """A CLIP with its hand-written prompt."""
    classifier = from_templates(clip.text, names, ["a photo of a {}."], clip.logit_scale)
    return DefendedModel(classifier, clip.text, tuple(names), clip.card)


def one_by_one(defense: TestTimeDefense, clip: Backbone, together: bool, pixels: Tensor, ids: list[str]) -> Tensor:
    """Logits ``[b, K]``: every image by itself; ``together``: all views of it in one pass of the tower."""
    encoder: Any = clip.require_image()

    @torch.no_grad()
    def embed(pictures: Tensor) -> Tensor:
        parts = pictures.split(len(pictures) if together else 1)
        return torch.cat([encoder.visual((part - encoder.mean) / encoder.std) for part in parts])

    return torch.stack([_plain(defense, clip, embed, pixels[i], name) for i, name in enumerate(ids)])


def _plain(defense: TestTimeDefense, clip: Backbone, embed: Encode, image: Tensor, name: str) -> Tensor:
    if isinstance(defense, TTE):
        return defense.model.classifier.logits(embed(defense.views(image[None])[0])).mean(0)
    defense = cast(MultiView, defense)
    draws = Draws((name,), defense.seed)
    shown = torch.stack([image, *_crops(image, defense.settings.views - 1, draws)])
    if not isinstance(defense, PromptTuning):
        return defense.combine(embed(shown)[None])[0]
    features = F.normalize(embed(shown), dim=-1)[None]
    weak = None
    if isinstance(defense, SSTPT):
        weak = F.normalize(embed(weak_augmentation(shown[None], draws.generators("weak"))[0]), dim=-1)[None]
    return _tuned(defense, clip.model, ViewFeatures(features, weak))


def _crops(image: Tensor, n: int, draws: Draws) -> list[Tensor]:
    size = [image.shape[-2], image.shape[-1]]
    boxes = views.draw_more(size[0], size[1], n, draws.generators("views")[0])
    made = []
    for box, flip in zip(boxes.place.tolist(), boxes.flipped.tolist()):
        crop = TF.resized_crop(image, *box, size, InterpolationMode.BILINEAR, antialias=True)
        made.append(TF.hflip(crop) if flip else crop)
    return made


class _Prompt(torch.nn.Module):
    """A context that starts anew for an image."""

    def __init__(self, context: Tensor) -> None:
        super().__init__()
        self.ctx, self.n_ctx = torch.nn.Parameter(context.clone()), len(context)


def _tuned(defense: PromptTuning, clip: Any, seen: ViewFeatures) -> Tensor:
    prompt, scale = _Prompt(defense.context), defense.model.classifier.scale
    texts = [f"a photo of a {name}." for name in defense.model.classnames]

    def logits(features: Tensor) -> tuple[Tensor, Tensor]:
        text = F.normalize(coop_forward(clip, prompt, texts), dim=-1)
        return scale * features @ text.T, text

    optimizer = torch.optim.AdamW(prompt.parameters(), lr=defense.settings.lr, betas=BETAS, eps=EPS, weight_decay=DECAY)
    untuned = logits(seen.features)[0].detach()
    n = untuned.shape[1]
    rows = choose(untuned, min(n, max(defense.fewest_kept, kept_count(defense.settings.rho, n))))
    objective = defense.objective(seen, untuned, rows)
    for _ in range(defense.settings.steps):
        optimizer.zero_grad()
        out, text = logits(seen.features)
        objective(out[:, rows[0]], text[None]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return defense.answer(seen, untuned, logits(seen.features)[0])[0]


def compare(
    report: Report,
    clip: Backbone,
    names: list[str],
    pixels: Tensor,
    repeats: int,
    wanted: float | None,
    methods: Sequence[str],
) -> None:
    """Seconds per image of every method alone, and of all of them together on shared embeddings."""
    model, encode, ids = defended(clip, names), clip.require_image(), [f"image {i}" for i in range(len(pixels))]
    defenses = {name: parse(name).build(model) for name in methods}

    def together() -> None:
        shared = CachedForward(encode)
        for defense in defenses.values():
            defense(pixels, ids, False, shared)

    ways: dict[str, Callable[[], object]] = {"together": together}
    for name, defense in defenses.items():
        ways[f"{name}, ours"] = functools.partial(defense, pixels, ids, False, encode)
        ways[f"{name}, single"] = functools.partial(one_by_one, defense, clip, False, pixels, ids)
        ways[f"{name}, plain"] = functools.partial(one_by_one, defense, clip, True, pixels, ids)
    seconds = {way: value / len(pixels) for way, value in alternate(ways, repeats, repeats > 1, clock=clock()).items()}
    for name, defense in defenses.items():
        gap = (defense(pixels, ids, False, encode) - one_by_one(defense, clip, True, pixels, ids)).abs().max()
        ours, single, plain = (seconds[f"{name}, {way}"] for way in ("ours", "single", "plain"))
        note = (
            f"seconds per image, K = {len(names)}, {len(pixels)} images; {plain / ours:.2f}x against all views of an "
            f"image in one pass; logits within {float(gap):.1e}"
        )
        report.compare(f"{name}, {clip.name}, against one by one", ours, single, wanted=wanted, note=note)
    each = sum(seconds[f"{name}, plain"] for name in methods)
    note = f"{len(methods)} methods on shared embeddings, against the views of an image in one pass for each method"
    report.compare(f"all of them, {clip.name}", seconds["together"], each, wanted=wanted, note=note)


def clock() -> Callable[[], float]:
    """The processor's time on one thread, which other work on the machine hardly changes; else the wall's."""
    return time.perf_counter if torch.cuda.is_available() or torch.get_num_threads() > 1 else time.process_time


def run(report: Report, name: str = SMALL, *methods: str) -> None:
    clip = backbone(name)
    pixels = digits(8) if name == SMALL else torch.rand(1 if report.small else 2, 3, 224, 224, device=device())
    names = DIGITS if name == SMALL else [f"class name {i}" for i in range(37)]
    repeats, wanted = (3 if report.small else 5, WANTED) if name == SMALL else (1, None)
    compare(report, clip, names, pixels, repeats, wanted, methods or METHODS)


if __name__ == "__main__":
    report = Report(Path("output/bench_multi_view.json"), small="--quick" in sys.argv)
    run(report, *[argument for argument in sys.argv[1:] if not argument.startswith("-")])
    print(describe({"multi_view": report}))
