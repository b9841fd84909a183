"""FARE: a frozen reference, an attack on the distance to it, and neither labels nor texts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from advpt import losses
from advpt.backbones.clip import Architecture
from advpt.checkpoints import load_checkpoint
from tests.helpers.fine_tuning import take_steps
from tests.helpers.tiny_clip import images
from tests.helpers.workspace import own_data, results, write_weights
from tests.trainers.test_finetune import TINY, build, tower_of
from trainers.finetune import EncoderTrainer

ATTACK = ("TRAINER.FARE.ATTACK", "pgd2-l2@8/a4")
LABELS = torch.tensor([0, 1, 2, 0])
RESNET = Architecture(16, 64, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "resnet.pt", RESNET)


def as_resnet(resnet_file):
    return ("MODEL.WEIGHTS", str(resnet_file), "INPUT.SIZE", "(64,64)", "MODEL.BACKBONE.NAME", "small-rn")


def test_nothing_is_lost_before_the_first_step_but_under_attack(workspace):
    made = build(workspace, "FARE", *ATTACK)
    pixels = images(4, 16)
    loss = losses.fare(made.image_encoder(pixels), made.reference(pixels))
    gradients = torch.autograd.grad(loss, list(made.image_encoder.parameters()))
    assert loss < 1e-8 and max(float(g.abs().max()) for g in gradients) < 1e-3
    assert made.robust_loss(pixels, LABELS, seed=1) > 100 * loss


def test_labels_and_texts_do_not_matter(workspace):
    made = build(workspace, "FARE", *ATTACK)
    pixels = images(4, 16)
    first = made.robust_loss(pixels, LABELS, seed=1)
    made.zero_shot = dataclasses.replace(made.zero_shot, features=made.zero_shot.features.flip(0))
    assert torch.equal(made.robust_loss(pixels, (LABELS + 1) % 3, seed=1), first)
    assert not torch.equal(made.robust_loss(pixels, LABELS, seed=2), first), "the seed does"


def test_images_of_one_class_will_do(workspace):
    flags = own_data(workspace, names=("anything",))
    workspace.run(*TINY, *ATTACK, trainer="FARE", flags=flags)
    assert tower_of(workspace.output).is_file()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_its_loss_is_the_distance_that_its_attack_makes_large(workspace, norm):
    made = build(workspace, "FARE", "TRAINER.FARE.ATTACK", f"pgd2-{norm}@8/a4")
    pixels = images(4, 16)
    with torch.no_grad():  # a tower that has moved
        proj = made.image_encoder.visual.proj
        proj += 0.05 * torch.randn(proj.shape, generator=torch.Generator().manual_seed(2))
    loss, attacked = made.robust_loss(pixels, LABELS, seed=1), []
    made.image_encoder.register_forward_hook(lambda module, inputs, output: attacked.append(inputs[0]))
    assert torch.equal(made.robust_loss(pixels, LABELS, seed=1), loss)
    clean, moved = made.reference(pixels), made.image_encoder(attacked[-1])
    torch.testing.assert_close(loss, losses.fare(moved, clean, norm))
    assert torch.equal(attacked[-1], made.perturb(pixels, LABELS, 1, made.attack.against(clean)))
    assert not torch.equal(attacked[-1], made.perturb(pixels, LABELS, 1)), "not the distance to its own clean output"
    near = pixels + 8 / 255 * torch.sign(torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)))
    assert loss > losses.fare(made.image_encoder(near.clamp(0, 1)), clean, norm), "no random corner is as far"


def test_clean_images_are_embedded_once_a_batch(workspace):
    made, passes = build(workspace, "FARE", *ATTACK), []
    made.reference.register_forward_hook(lambda *_: passes.append(made.reference.training))
    made.set_model_mode("train")
    made.robust_loss(images(4, 16), LABELS, seed=1)
    assert passes == [False]


def test_the_reference_stays_and_is_rebuilt_on_resume(workspace, monkeypatch):
    made = build(workspace, "FARE", *ATTACK)
    before = {name: value.clone() for name, value in made.reference.state_dict().items()}
    take_steps(made, 3)
    assert all(torch.equal(value, before[name]) for name, value in made.reference.state_dict().items())
    assert not any(torch.equal(p, before[name]) for name, p in made.image_encoder.named_parameters() if p.dim() > 1)
    tuned = {id(p) for group in made.optim.param_groups for p in group["params"]}
    assert not tuned & {id(p) for p in made.reference.parameters()}
    assert not any(p.requires_grad for p in made.reference.parameters())

    workspace.run(*TINY, *ATTACK, trainer="FARE")
    saved = load_checkpoint(workspace.output / "image_encoder" / "model.pth.tar-2")
    assert saved["state_dict"].keys() == made.image_encoder.state_dict().keys()
    for result in results(workspace.output).values():
        assert result["training"]["reference"] == made.base.image != result["backbone"]["image"]

    references = []
    monkeypatch.setattr(EncoderTrainer, "run_epoch", lambda self: references.append(self.reference.state_dict()))
    again = build(workspace, "FARE", *ATTACK, "OPTIM.MAX_EPOCH", "3", "RESUME", str(workspace.output))
    again.save_model = again.test = lambda *args, **settings: 0.0  # type: ignore[method-assign]
    again.train()
    assert len(references) == 1 and all(torch.equal(value, before[name]) for name, value in references[0].items())


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("pgd10-l2@4/none", "'l2' has no gradient at the clean image, with which it compares; it needs a random start"),
        ("fgsm-l1@4", "objective 'l1' has no gradient at the clean image"),
        ("pgd10-ce@4", "FARE's attack and loss are one distance between embeddings: pgd10-l2@4/a1"),
        ("pgd10-fkl@4", "one distance between embeddings"),
    ],
)
def test_attacks_that_are_not_fares_are_refused_before_anything_is_loaded(workspace, attack, reason):
    status, printed = workspace.call(*TINY, "TRAINER.FARE.ATTACK", attack, "MODEL.WEIGHTS", "none.pt", trainer="FARE")
    assert status == 2 and reason in printed
    assert "TRAINER.FARE.ATTACK" in printed and attack in printed and "Traceback" not in printed


@pytest.mark.parametrize(("trainer", "attack"), [("FARE", ATTACK), ("TeCoA", ("TRAINER.TECOA.ATTACK", "pgd2-ce@8/a4"))])
def test_statistics_of_batches_move_in_training_alone(workspace, resnet_file, trainer, attack):
    made = build(workspace, trainer, *attack, *as_resnet(resnet_file))
    pixels, modes = images(4, 64), []
    statistics = [name for name, _ in made.image_encoder.named_buffers() if name.endswith("running_mean")]

    def state(encoder):
        return {name: value.clone() for name, value in encoder.state_dict().items() if name in statistics}

    made.set_model_mode("train")
    before = state(made.image_encoder)
    hook = made.image_encoder.register_forward_hook(lambda *_: modes.append(made.image_encoder.training))
    made.perturb(pixels, LABELS, 1)
    assert modes and not any(modes), "the attack is on the model as it will be used"
    assert before and all(torch.equal(value, before[name]) for name, value in state(made.image_encoder).items())
    modes.clear()
    made.robust_loss(pixels, LABELS, seed=1)
    hook.remove()
    assert modes[-1] and sum(modes) == 1, "the loss is of training"
    assert not any(torch.equal(value, before[name]) for name, value in state(made.image_encoder).items())
    if made.compares:
        assert not made.reference.training
        assert all(torch.equal(value, before[name]) for name, value in state(made.reference).items())


def test_a_tuned_resnet_comes_back_with_its_statistics(workspace, resnet_file):
    small = as_resnet(resnet_file)
    workspace.run(*TINY, *ATTACK, *small, "OPTIM.LR", "1e-5", trainer="FARE")
    tower = ("MODEL.IMAGE_WEIGHTS", str(tower_of(workspace.output)))
    workspace.run(*TINY, *small, *tower, trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    trained, loaded = results(workspace.output), results(workspace.folder / "zs")
    assert {n: (r["clean"], r["robust"]) for n, r in loaded.items()} == {
        n: (r["clean"], r["robust"]) for n, r in trained.items()
    }
