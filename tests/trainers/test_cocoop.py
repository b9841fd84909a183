"""CoCoOp from training to attacks: runs, checkpoints, banks and resumption. Its formulas: tests/prompts."""

from __future__ import annotations

import json
import os
import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.backbones.clip import build
from advpt.bank.cache import AttackRequest
from advpt.bank.store import open_bank
from advpt.checkpoints import load_checkpoint
from advpt.errors import PromptError
from advpt.prompts import exchange
from advpt.prompts.conditional import logits_of_images
from advpt.signals import TERMINATED
from tests.helpers.peers import make
from tests.helpers.records import FACTS
from tests.helpers.workspace import ROOT, TINY, Workspace, parse_as_coop, results

SHORT = ("DATALOADER.TRAIN_X.BATCH_SIZE", "1", "OPTIM.LR", "0.002", "OPTIM.MAX_EPOCH", "2",
         "EVAL.ATTACKS", "('pgd2-fkl@8','pgd2-ce@8')")  # fmt: skip
TRANSFER, ADAPTIVE = "test_transfer_pgd2-ce@8-a8.json", "test_adaptive_pgd2-ce@8-a8.json"
NAMES = {"ctx", *(f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias"))}


def run(workspace: Workspace, *more: str, **options) -> str:
    return workspace.run(*SHORT, *more, trainer="CoCoOp", **options)


def state_of(run: Path) -> dict:
    return load_checkpoint(run / "prompt_learner" / "model.pth.tar-2")["state_dict"]


def test_a_run_its_banks_and_its_checkpoint(workspace):
    printed = run(workspace)
    assert "epoch [2/2]" in printed and parse_as_coop(workspace.output / "log.txt", "accuracy") >= 0
    kept = results(workspace.output)
    assert {TRANSFER, ADAPTIVE} <= kept.keys() and any(name.startswith("test_transfer_pgd2-fkl") for name in kept)
    banks = {p.parent.name: open_bank(p.parent, None, verify=True).spec["adversarial_set"]["attacked"]
             for p in (workspace.folder / "banks").glob("**/manifest.json")}  # fmt: skip
    prompt = kept[ADAPTIVE]["prompt"]
    assert banks[kept[ADAPTIVE]["robust"]["bank"]]["text"] == prompt, "context and meta net are in the key"
    assert banks[kept[TRANSFER]["robust"]["bank"]]["text"] not in (None, prompt)

    saved = state_of(workspace.output)
    assert set(saved) == NAMES
    about = json.loads((workspace.output / "prompt_learner" / "prompt.json").read_text())
    assert (about["n_ctx"], about["csc"], about["trainer"]) == (4, False, "CoCoOp")
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    run(workspace, output=workspace.folder / "eval", flags=flags)
    again = results(workspace.folder / "eval")
    for name in (TRANSFER, ADAPTIVE):
        assert again[name]["robust"] == kept[name]["robust"] and again[name]["clean"] == kept[name]["clean"]
    with pytest.raises(PromptError, match=r"also holds meta_net.linear1.bias.*CoOp's checkpoints have no place"):
        exchange.read(workspace.output)
    code, printed = workspace.call(trainer="AdvPT", output=workspace.folder / "no", flags=flags)
    assert code == 2 and "use the trainer, LAYOUT and depths that it was tuned with" in printed


def test_a_step_is_cocoops(workspace):
    """By hand: the host's augmented image, CLIP's feature, SGD on the cross-entropy of the prompts that it moves."""
    made = make(workspace, "CoCoOp", *SHORT, "INPUT.TRANSFORMS", "('random_resized_crop','normalize')")
    learner = made.prompt_learner
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    batch = next(iter(made.train_loader_x))
    assert batch["img"].shape == (1, 3, 16, 16)
    loss = made.forward_backward(batch)["loss"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (made.cfg.INPUT.PIXEL_MEAN, made.cfg.INPUT.PIXEL_STD))
    with torch.no_grad():
        feature = F.normalize(made.backbone.image((batch["img"] * std + mean).clamp(0, 1)), dim=-1)
    values = {name: value.requires_grad_() for name, value in before.items()}
    text = made.encoder(learner.of_images(feature, values))
    wanted = F.cross_entropy(logits_of_images(feature, text, made.backbone.logit_scale), batch["label"])
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    decay = made.cfg.OPTIM.WEIGHT_DECAY
    for name, p in learner.named_parameters():
        expected = before[name] - 0.002 * (before[name].grad + decay * before[name])
        assert torch.allclose(p, expected, atol=1e-6), name
        assert not torch.equal(p, before[name]), name


def test_an_adaptive_attack_goes_through_the_meta_net(workspace):
    """By hand, and against an attacker who takes the text features of the clean image for given."""
    from advpt.evaluation.evaluator import evaluate

    made = make(workspace, "CoCoOp", "EVAL.ATTACKS", "('pgd2-ce@8',)")
    with torch.no_grad():
        for layer in (made.prompt_learner.meta_net.linear1, made.prompt_learner.meta_net.linear2):
            layer.weight.mul_(3)
        made.prompt_learner.meta_net.linear1.bias.add_(2)  # every unit passes a gradient on
    images, learned, zero_shot = made.image_set("test"), made.classifier(), made.zero_shot
    kept = evaluate(made.prompts(), images, made.bank_cache, made.eval_settings, FACTS)
    (batch,) = images.batches(range(len(images)), 64, 0)
    encode, names = made.backbone.require_image(), images.ids

    def logits(x, moved_by=None):
        embeddings = encode(x)
        source = embeddings if moved_by is None else encode(moved_by).detach()
        text = made.encoder(made.prompt_learner.of_images(F.normalize(source, dim=-1), learned.values))
        return logits_of_images(embeddings, text, learned.scale)

    banks = {p.parent.name: open_bank(p.parent, None, verify=True)
             for p in (workspace.folder / "banks").glob("**/manifest.json")}  # fmt: skip

    def attacked(through):
        chunks = []
        for start in range(0, len(names), 4):
            part = slice(start, start + 4)
            clean = batch.pixels[part]
            forward = lambda x: through(x, clean)  # noqa: B023, E731 - called at once
            noise = SampleNoise(names[part], 0)
            chunks.append(parse("pgd2-ce@8").build()(forward, clean, batch.labels[part], noise).images)
        return torch.cat(chunks)

    for one, through in (
        (kept[0], lambda x, clean: zero_shot.logits(encode(x))),
        (kept[1], lambda x, clean: logits(x)),
    ):
        pixels = attacked(through)
        assert torch.allclose(banks[one.result.robust.bank].embeddings, encode(pixels), atol=1e-5)
        right = logits(pixels).argmax(1) == batch.labels
        assert one.result.robust.outcomes().tolist() == right.tolist()
    assert kept[0].result.clean.outcomes().tolist() == ((logits(batch.pixels).argmax(1) == batch.labels).tolist())
    assert not torch.equal(pixels, attacked(lambda x, clean: logits(x, clean))), "the meta net's gradient counts"
    with torch.no_grad():
        made.prompt_learner.meta_net.linear2.bias.add_(1e-3)
    spec = parse("pgd2-ce@8")
    keys = {
        made.bank_cache.spec(AttackRequest(images, spec, who)).key for who in (learned, made.classifier(), zero_shot)
    }
    assert len(keys) == 3


def test_stopped_in_the_middle_of_an_epoch_it_continues_exactly(workspace):
    from trainers.cocoop import CoCoOp

    run(workspace)
    stopped, step = workspace.folder / "stopped", CoCoOp.forward_backward
    for epoch, batch in ((0, 6), (1, 0)):

        def told_to_stop(self, item, at=(epoch, batch)):
            if (self.epoch, self.batch_idx) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, item)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CoCoOp, "forward_backward", told_to_stop)
            status, printed = workspace.call(*SHORT, trainer="CoCoOp", output=stopped)
        assert status == TERMINATED and "the same command continues" in printed
        rolling = load_checkpoint(stopped / "rolling.pth.tar")
        assert (rolling["epoch"], rolling["batches"]) == (epoch, batch + 1)
        assert set(rolling["parts"]["prompt_learner"]["model"]) == NAMES
    printed = run(workspace, output=stopped)
    assert "continuing epoch 2 after batch 1" in printed
    whole, again = state_of(workspace.output), state_of(stopped)
    assert all(torch.equal(whole[name], again[name]) for name in NAMES)
    assert results(stopped) == results(workspace.output)


def test_several_seeds_in_one_process_are_refused_in_a_sentence(workspace):
    words = workspace.argv(*SHORT, trainer="CoCoOp")
    at = words.index("--seed")
    code, printed = workspace.call_words([*words[:at], "--seeds", "1,2", *words[at + 2 :]])
    assert code == 2 and "CoCoOp cannot tune several seeds together; run them one by one with --seed" in printed


def test_a_checkpoint_of_the_public_code(workspace, tmp_path):
    """Half precision, class tokens beside the context, the scheduler as an object."""
    made = make(workspace, "CoCoOp")
    state = OrderedDict((name, p.detach().half()) for name, p in made.prompt_learner.named_parameters())
    state |= {"token_prefix": torch.zeros(5, 1, 64).half(), "token_suffix": torch.zeros(5, 72, 64).half()}
    path = tmp_path / "public" / "prompt_learner" / "model.pth.tar-10"
    path.parent.mkdir(parents=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
    inner = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    torch.save({"state_dict": state, "epoch": 10, "optimizer": optimizer.state_dict(),
                "scheduler": {"successor": inner, "warmup_epoch": 1}, "val_result": None}, path)  # fmt: skip
    flags = ("--eval-only", "--model-dir", str(tmp_path / "public"), "--load-epoch", "10")
    printed = run(workspace, flags=flags, output=tmp_path / "eval")
    assert "(epoch = 10)" in printed
    with torch.no_grad():
        for name, p in made.prompt_learner.named_parameters():
            p.copy_(state[name].float())
    assert results(tmp_path / "eval")[TRANSFER]["prompt"] == made.classifier().digest


@pytest.mark.parametrize(
    ("name", "n_ctx", "init"),
    [("c4_ep10_batch1_ctxv1", 4, "a photo of a"), ("c4_ep10_batch1", 4, ""), ("c16_ep10_batch1", 16, "")],
)
def test_published_configurations(workspace, monkeypatch, name, n_ctx, init):
    """The names that CoCoOp's documented commands give, and the settings behind them."""
    import train

    yaml = ROOT / "configs" / "trainers" / "CoCoOp" / f"vit_b16_{name}.yaml"
    argv = ["--trainer", "CoCoOp", "--config-file", str(yaml), "--seed", "1", "DATASET.NUM_SHOTS", "16"]
    monkeypatch.chdir(workspace.folder)
    cfg = train.setup_cfg(train.parse_args(argv))
    optim = cfg.OPTIM
    assert dict(cfg.TRAINER.COCOOP) == {"N_CTX": n_ctx, "CTX_INIT": init, "PREC": "fp16"}
    assert (cfg.DATALOADER.TRAIN_X.BATCH_SIZE, optim.MAX_EPOCH, optim.LR, optim.NAME) == (1, 10, 0.002, "sgd")
    assert (optim.LR_SCHEDULER, optim.WARMUP_EPOCH, optim.WARMUP_TYPE, optim.WARMUP_CONS_LR) == (
        "cosine", 1, "constant", 1e-5)  # fmt: skip
    assert (cfg.MODEL.BACKBONE.NAME, cfg.INPUT.TRANSFORMS) == (
        "ViT-B/16", ("random_resized_crop", "random_flip", "normalize"))  # fmt: skip
    run_folder = Path(cfg.OUTPUT_DIR)
    assert run_folder.parts == ("output", "digits", "CoCoOp", f"vit_b16_{name}_16shots", "seed1")


def test_the_image_tower_of_the_meta_net_is_looked_at(workspace, tmp_path):
    """Its weights read the features of one image tower; those of another have the same shape."""
    run(workspace, "EVAL.ATTACKS", "()")
    torch.manual_seed(1)
    other = tmp_path / "tower.pth.tar"
    torch.save({"vision_encoder_state_dict": build(TINY).visual.state_dict()}, other)
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    more = ("MODEL.IMAGE_WEIGHTS", str(other))
    code, printed = workspace.call(*SHORT, *more, trainer="CoCoOp", output=workspace.folder / "eval", flags=flags)
    assert code == 2 and "was tuned on another CLIP" in printed and "image tower" in printed
