"""The baselines: linear probe, adversarial training of the image encoder in three ways, curves over wall-clock."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_runs import own_data, results

from advpt import losses
from advpt.checkpoints import load_checkpoint
from advpt.evaluation import record as records

TINY = ("OPTIM.NAME", "adamw", "OPTIM.LR", "1e-3", "OPTIM.MAX_EPOCH", "2", "OPTIM.WARMUP_EPOCH", "-1",
        "EVAL.ATTACKS", "('pgd2-fkl@8','pgd2-ce@8')")  # fmt: skip
METHODS = {
    "AdvTrain": ("TRAINER.ADVTRAIN.ATTACK", "pgd2-ce@4"),
    "FastAT": ("TRAINER.FASTAT.ATTACK", "pgd1-ce@4/a5"),
    "TradesFT": ("TRAINER.TRADESFT.ATTACK", "pgd2-kl@4/a2/gaussian"),
}


def test_trades_by_hand():
    clean, attacked = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    labels = torch.tensor([0, 1])

    def softmax(row):
        e = [math.exp(v) for v in row]
        return [v / sum(e) for v in e]

    ce = sum(-math.log(softmax(row)[y]) for row, y in zip(clean.tolist(), labels.tolist())) / 2
    kl = 0.0
    for one, other in zip(clean.tolist(), attacked.tolist()):
        kl += sum(p * (math.log(p) - math.log(q)) for p, q in zip(softmax(one), softmax(other))) / 2
    assert float(losses.trades(clean, attacked, labels, 6.0)) == pytest.approx(ce + 6 * kl, rel=1e-5)
    clean.requires_grad_()
    attacked.requires_grad_()
    losses.trades(clean, attacked, labels, 6.0).backward()
    assert clean.grad.abs().sum() > 0 and attacked.grad.abs().sum() > 0, "the KL's gradient flows through both branches"
    assert float(losses.adversarial_training(attacked, labels)) == pytest.approx(
        sum(-math.log(softmax(row)[y]) for row, y in zip(attacked.tolist(), labels.tolist())) / 2, rel=1e-5
    )


def build(world, trainer, *more):
    from dassl.engine import build_trainer

    import datasets  # noqa: F401
    import train
    import trainers  # noqa: F401

    torch.manual_seed(0)
    return build_trainer(train.setup_cfg(train.parse_args(world.argv(*TINY, *more, trainer=trainer))))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_changes_the_image_encoder_alone_and_lowers_its_loss(world, method):
    trainer = build(world, method, *METHODS[method])
    batch = next(iter(trainer.train_loader_x))
    before = {name: value.clone() for name, value in trainer.backbone.model.state_dict().items()}
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 10
    first = trainer.forward_backward(batch)["loss"]
    after = trainer.backbone.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("visual.") for name in changed)
    frozen = [p for name, p in trainer.backbone.model.named_parameters() if not name.startswith("visual.")]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    for _ in range(4):
        last = trainer.forward_backward(batch)["loss"]
    assert last < first


def test_crafting_leaves_the_encoder_as_it_was(world):
    trainer = build(world, "AdvTrain", *METHODS["AdvTrain"])
    batch = next(iter(trainer.train_loader_x))
    pixels = torch.rand(4, 3, 16, 16)
    trainer.image_encoder.train()
    attacked = trainer.perturb(pixels, batch["label"], 5)
    assert trainer.image_encoder.training and all(
        p.requires_grad and p.grad is None for p in trainer.image_encoder.parameters()
    )
    assert 0 < (attacked - pixels).abs().max() <= 4 / 255 + 1e-6
    assert torch.equal(attacked, trainer.perturb(pixels, batch["label"], 5))


def test_its_banks_are_its_own_and_a_killed_run_ends_the_same(world, monkeypatch):
    method = METHODS["AdvTrain"]
    world.run(*TINY, "EVAL.PROTOCOLS", "('transfer',)", trainer="ZeroshotCLIP", output=world.folder / "zs")
    shared = set((world.folder / "banks").glob("**/manifest.json"))
    world.run(*TINY, *method, "TRAIN.CURVE_FREQ", "1", trainer="AdvTrain")
    own = set((world.folder / "banks").glob("**/manifest.json")) - shared
    assert len(own) >= 3, "clean, KL and CE banks of the tuned encoder, for each point of the curve"
    found = results(world.output)
    vanilla = results(world.folder / "zs")
    name = "test_transfer_pgd2-fkl@8-a5.json"
    assert found[name]["backbone"]["image"] != vanilla[name]["backbone"]["image"]
    assert found[name]["backbone"]["text"] == vanilla[name]["backbone"]["text"]
    curve = found[name]["training"]["curve"]
    assert [row["epoch"] for row in curve] == [1, 2]
    assert curve[-1]["robust"]["accuracy"] == found[name]["robust"]["accuracy"]
    times = records.read(world.output / "records" / name).observed["training"]
    assert times["before"] == 0.0 and len(times["epochs"]) == 2
    assert [p.name for p in (world.output / "image_encoder").glob("model.pth*")] == ["model.pth.tar-2"]

    from trainers.finetune import EncoderTrainer

    real, seen = EncoderTrainer.forward_backward, []

    def dies(self, batch):
        seen.append(1)
        if len(seen) == self.num_batches + 2:
            raise KeyboardInterrupt
        return real(self, batch)

    other = world.folder / "killed"
    monkeypatch.setattr(EncoderTrainer, "forward_backward", dies)
    assert world.call(*TINY, *method, "TRAIN.CURVE_FREQ", "1", trainer="AdvTrain", output=other)[0] == 130
    monkeypatch.setattr(EncoderTrainer, "forward_backward", real)
    world.run(*TINY, *method, "TRAIN.CURVE_FREQ", "1", trainer="AdvTrain", output=other)
    assert results(other) == found
    one, two = (load_checkpoint(x / "image_encoder" / "model.pth.tar-2")["state_dict"] for x in (world.output, other))
    assert all(torch.equal(one[k], two[k]) for k in one)

    flags = ("--eval-only", "--model-dir", str(world.output))
    world.run(*TINY, *method, trainer="AdvTrain", output=world.folder / "eval", flags=flags)
    again = results(world.folder / "eval")[name]
    assert again["robust"] == found[name]["robust"] and again["backbone"] == found[name]["backbone"]


def test_fast_at_warns_of_catastrophic_overfitting(world, monkeypatch, caplog):
    trainer = build(world, "FastAT", *METHODS["FastAT"])
    trainer.last_batch = next(iter(trainer.train_loader_x))
    trainer.epoch, trainer.before = 0, 150.0
    monkeypatch.setattr(type(trainer).__mro__[1], "after_epoch", lambda self: None)
    trainer.after_epoch()
    assert "catastrophic" in caplog.text and trainer.before <= 100


def test_the_linear_probe_is_scikit_learns(world):
    world.run(*TINY, "TRAINER.LINEARPROBE.C", "0.5", trainer="LinearProbe")
    found = results(world.output)
    name = "test_transfer_pgd2-fkl@8-a5.json"
    assert found[name]["training"] == {"images": 15, "c": 0.5, "converged": True}

    from advpt.bank.store import open_bank

    banks = [open_bank(p.parent, None, verify=True) for p in (world.folder / "banks").glob("**/manifest.json")]
    clean = {b.ids[0].split("/")[1]: b for b in banks if b.spec["adversarial_set"]["attack"] is None}
    fkl = next(b for b in banks if (b.spec["adversarial_set"]["attack"] or {}).get("objective") == "fkl")
    x, y = clean["train"].embeddings.double().numpy(), clean["train"].labels.numpy()
    by_hand = LogisticRegression(C=0.5, max_iter=1000).fit(x, y)
    for bank, part in ((clean["test"], "clean"), (fkl, "robust")):
        right = by_hand.predict(bank.embeddings.double().numpy()) == bank.labels.numpy()
        assert np.array_equal(records.outcome(found[name][part]), right)
    assert "test_adaptive_pgd2-ce@8-a8.json" in found, "through the head"
    flags = ("--eval-only", "--model-dir", str(world.output))
    world.run(*TINY, trainer="LinearProbe", output=world.folder / "eval", flags=flags)
    assert results(world.folder / "eval")[name]["robust"] == found[name]["robust"]


def test_the_probe_says_what_c_was_chosen_on(world):
    probe = functools.partial(world.run, "EVAL.ATTACKS", "()", trainer="LinearProbe")
    printed = probe()
    assert re.search(r"C = \S+, the best of \d+, chosen on 6 images: the validation split\n", printed)
    (found,) = results(world.output).values()
    assert found["training"]["c_chosen_on"] == "6 images: the validation split" and not found["warnings"]

    printed = probe(flags=own_data(world), output=world.folder / "part")
    assert "chosen on 3 images: every 5th training image of each class, which the probe is not fitted to" in printed
    (found,) = results(world.folder / "part").values()
    assert found["training"]["c_chosen_on"].startswith("3 images: every 5th training image")
    assert found["training"]["images"] == 12 and not found["warnings"]

    printed = probe("DATASET.NUM_SHOTS", "2", flags=own_data(world), output=world.folder / "few")
    assert "chosen on 6 images: the training images themselves" in printed
    (found,) = results(world.folder / "few").values()
    (said,) = found["warnings"]
    assert said.startswith("C of the linear probe was chosen on the training images themselves")
    assert "C = 0.5, as TRAINER.LINEARPROBE.C says" in probe("TRAINER.LINEARPROBE.C", "0.5", output=world.folder / "c")


def test_a_probe_and_zero_shot_do_not_care_about_the_context_of_prompts(world):
    for trainer in ("LinearProbe", "ZeroshotCLIP"):
        world.run("TRAINER.ADVPT.N_CTX", "0", "EVAL.ATTACKS", "()", trainer=trainer, output=world.folder / trainer)


def test_the_probe_uses_the_images_that_prompts_use_and_few_shots(world):
    world.run(*TINY, trainer="ZeroshotCLIP", output=world.folder / "zs")
    world.run(*TINY, "DATASET.NUM_SHOTS", "2", trainer="LinearProbe")
    name = "test_transfer_pgd2-fkl@8-a5.json"
    probe, vanilla = results(world.output)[name], results(world.folder / "zs")[name]
    assert probe["robust"]["bank"] == vanilla["robust"]["bank"] and probe["training"]["images"] == 6
    code, printed = world.call(*TINY, trainer="LinearProbe", output=world.folder / "e",
                               flags=("--eval-only", "--model-dir", str(world.folder / "zs")))  # fmt: skip
    assert code == 2 and "no linear probe at" in printed


def test_words_curves_and_pictures_of_a_prompt(world):
    asked = ("EVAL.WORDS", "2", "EVAL.PICTURES", "2", "TRAIN.CURVE_FREQ", "2")
    world.run(*asked)
    found = results(world.output)["test_transfer_pgd2-fkl@8-a5.json"]
    words = found["words"]
    assert len(words["trained"]["per_vector"]) == 4 == len(words["untrained"]["per_vector"])
    assert words["trained"]["overall"] and words["trained"]["searched"] == 49406
    assert [row["epoch"] for row in found["training"]["curve"]] == [2, 3]
    observed = records.read(world.output / "records" / "test_transfer_pgd2-fkl@8-a5.json").observed
    assert observed["training"]["before"] > 0, "building the bank counts"
    about = json.loads((world.output / "pictures" / "pictures.json").read_text())
    assert len(about["pictures"]) == 2 and len(list((world.output / "pictures").glob("*.png"))) == 6
    from advpt.evaluation.record import Record

    assert about["record"] == Record(found, {}).id

    # a second run takes the bank's time from who built it; an evaluation alone says where its prompt is from
    world.run(*asked, seed=2, output=world.folder / "two")
    second = records.read(world.folder / "two" / "records" / "test_transfer_pgd2-fkl@8-a5.json").observed["training"]
    assert second["before"] == observed["training"]["before"]
    flags = ("--eval-only", "--skip-done", "--model-dir", str(world.output))
    world.run("EVAL.WORDS", "2", output=world.folder / "eval", flags=flags)
    again = results(world.folder / "eval")["test_transfer_pgd2-fkl@8-a5.json"]
    assert again["words"] == words and again["training"]["loaded"] == {
        "epoch": 3, "trainer": "AdvPT", "dataset": "TinyPhotos", "seed": 1,
    }  # fmt: skip
    assert "done already" in world.run("EVAL.WORDS", "2", output=world.folder / "eval", flags=flags)
    shutil.rmtree(world.folder / "eval" / "records")
    assert "done already" not in world.run("EVAL.WORDS", "2", output=world.folder / "eval", flags=flags)
