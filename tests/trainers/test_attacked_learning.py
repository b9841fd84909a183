"""That prompts learn: on a small CLIP that was trained for a moment, through the trainers' own steps.

Robust accuracy on such a CLIP means nothing; what is asserted is that losses fall, and what keeps clean accuracy.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.clip import backbone_of, build
from tests.helpers.peers import DEEP, make
from tests.helpers.workspace import NAMES, Workspace


def photos(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Grey noise with a tint: its channel is the class."""
    labels = torch.arange(n) % len(NAMES)
    x = 0.45 * torch.rand(n, 3, 16, 16, generator=generator)
    return x + 0.2 * F.one_hot(labels, 3).float()[:, :, None, None], labels


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> Path:
    """A CLIP like that of :mod:`tests.helpers.peers`, tuned as a whole on such pictures by its own text features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = backbone_of("small", build(DEEP))
    encoder, image, generator = backbone.text, backbone.require_image(), torch.Generator().manual_seed(0)
    words = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    tuned = [p for name, p in backbone.model.named_parameters() if name != "token_embedding.weight"]
    optimizer = torch.optim.Adam([p.requires_grad_() for p in tuned], lr=1e-3)
    for _ in range(60):
        x, y = photos(24, generator)
        text = F.normalize(encoder.encode_texts(words), dim=-1)
        loss = F.cross_entropy(20 * F.normalize(image(x), dim=-1) @ text.T, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = backbone.model.state_dict()
    state["logit_scale"] = torch.tensor(20.0).log()
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(state, path)
    return path


def tune(workspace: Workspace, trainer: str, eps: int, rate: str, steps: int, *more: str) -> tuple[list[float], float]:
    """The losses of the steps, and clean accuracy after them."""
    node, objective = f"TRAINER.{trainer.upper()}", "kl" if trainer == "FAP" else "ce"
    made = make(workspace, trainer, "OPTIM.LR", rate, f"{node}.ATTACK", f"pgd2-{objective}@{eps}/a{eps}", *more)
    generator, losses = torch.Generator().manual_seed(5), []
    for made.batch_idx in range(steps):
        x, y = photos(24, generator)
        losses.append(made.forward_backward({"img": x, "label": y})["loss"])
    return losses, clean_accuracy(made)


def clean_accuracy(trainer) -> float:
    x, y = photos(300, torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float((trainer.model_inference(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize("trainer", ("APT", "AdvIVLP", "AdvMaPLe", "FAP", "CAPT"))
def test_the_loss_falls(tmp_path, small_file, trainer):
    more = ("TRAINER.APT.CTX_INIT", "a photo of a") if trainer == "APT" else ()
    losses, _ = tune(Workspace(tmp_path, small_file), trainer, 16, "0.005", 20, *more)
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])


def test_a_clean_term_anchors_clean_accuracy(tmp_path, small_file):
    """Under an attack that nearly takes the tint away, adversarial cross-entropy alone ends at guessing, clean images
    included; the clean term of FAP and CAPT keeps them right."""
    found = {}
    for trainer, leaf, value in (("AdvIVLP", "LOSS", "adv_full"), ("AdvMaPLe", "LOSS", "adv_full"),
                                 ("FAP", "LAMBDA", "0.3"), ("CAPT", "LAMBDA", "0.3")):  # fmt: skip
        folder = tmp_path / trainer
        folder.mkdir()
        setting = (f"TRAINER.{trainer.upper()}.{leaf}", value)
        found[trainer] = tune(Workspace(folder, small_file), trainer, 40, "0.005", 30, *setting)[1]
    assert max(found["AdvIVLP"], found["AdvMaPLe"]) < 0.6, found
    assert min(found["FAP"], found["CAPT"]) > 0.85, found
