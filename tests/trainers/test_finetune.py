"""Baselines that tune the image encoder by adversarial training in three ways, and curves over wall-clock time."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch

from advpt import losses
from advpt.backbones import tuned_tower
from advpt.checkpoints import load_checkpoint, load_safetensors
from advpt.evaluation import record as records
from advpt.files import file_digest, tensor_digest
from advpt.tuning.schedule import warmup_cosine
from tests.helpers.trainers import registered_trainers
from tests.helpers.workspace import results
from trainers.finetune import EncoderTrainer

TINY = ("OPTIM.NAME", "adamw", "OPTIM.LR", "1e-3", "OPTIM.MAX_EPOCH", "2", "OPTIM.WARMUP_EPOCH", "-1",
        "EVAL.ATTACKS", "('pgd2-fkl@8','pgd2-ce@8')")  # fmt: skip
QUICK = {  # attacks of few steps
    "AdvTrain": ("TRAINER.ADVTRAIN.ATTACK", "pgd2-ce@4"),
    "FastAT": ("TRAINER.FASTAT.ATTACK", "pgd1-ce@4/a5"),
    "TradesFT": ("TRAINER.TRADESFT.ATTACK", "pgd2-kl@4/a2/gaussian"),
    "FARE": ("TRAINER.FARE.ATTACK", "pgd2-l2@8/a4", "OPTIM.LR", "1e-5"),
}
METHODS = {name: QUICK.get(name, ()) for name in registered_trainers(EncoderTrainer)}


def build(workspace, trainer, *more):
    from dassl.engine import build_trainer

    import datasets  # noqa: F401
    import train
    import trainers  # noqa: F401

    torch.manual_seed(0)
    return build_trainer(train.setup_cfg(train.parse_args(workspace.argv(*TINY, *more, trainer=trainer))))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_changes_the_image_encoder_alone_and_lowers_its_loss(workspace, method):
    trainer = build(workspace, method, *METHODS[method])
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


def test_crafting_leaves_the_encoder_as_it_was(workspace):
    trainer = build(workspace, "AdvTrain", *METHODS["AdvTrain"])
    batch = next(iter(trainer.train_loader_x))
    pixels = torch.rand(4, 3, 16, 16)
    trainer.image_encoder.train()
    attacked = trainer.perturb(pixels, batch["label"], 5)
    assert trainer.image_encoder.training and all(
        p.requires_grad and p.grad is None for p in trainer.image_encoder.parameters()
    )
    assert 0 < (attacked - pixels).abs().max() <= 4 / 255 + 1e-6
    assert torch.equal(attacked, trainer.perturb(pixels, batch["label"], 5))


def test_its_banks_are_its_own_and_a_killed_run_ends_the_same(workspace, monkeypatch):
    method = METHODS["AdvTrain"]
    workspace.run(*TINY, "EVAL.PROTOCOLS", "('transfer',)", trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    shared = set((workspace.folder / "banks").glob("**/manifest.json"))
    workspace.run(*TINY, *method, "TRAIN.CURVE_FREQ", "1", trainer="AdvTrain")
    own = set((workspace.folder / "banks").glob("**/manifest.json")) - shared
    assert len(own) >= 3, "clean, KL and CE banks of the tuned encoder, for each point of the curve"
    found = results(workspace.output)
    vanilla = results(workspace.folder / "zs")
    name = "test_transfer_pgd2-fkl@8-a5.json"
    assert found[name]["backbone"]["image"] != vanilla[name]["backbone"]["image"]
    assert found[name]["backbone"]["text"] == vanilla[name]["backbone"]["text"]
    curve = found[name]["training"]["curve"]
    assert [row["epoch"] for row in curve] == [1, 2]
    assert curve[-1]["robust"]["accuracy"] == found[name]["robust"]["accuracy"]
    times = records.read(workspace.output / "records" / name).observed.training
    assert times.before == 0.0 and len(times.epochs) == 2
    assert [p.name for p in (workspace.output / "image_encoder").glob("model.pth*")] == ["model.pth.tar-2"]

    from trainers.finetune import EncoderTrainer

    real, seen = EncoderTrainer.forward_backward, []

    def dies(self, batch):
        seen.append(1)
        if len(seen) == self.num_batches + 2:
            raise KeyboardInterrupt
        return real(self, batch)

    other = workspace.folder / "killed"
    monkeypatch.setattr(EncoderTrainer, "forward_backward", dies)
    assert workspace.call(*TINY, *method, "TRAIN.CURVE_FREQ", "1", trainer="AdvTrain", output=other)[0] == 130
    monkeypatch.setattr(EncoderTrainer, "forward_backward", real)
    workspace.run(*TINY, *method, "TRAIN.CURVE_FREQ", "1", trainer="AdvTrain", output=other)
    assert results(other) == found
    one, two = (
        load_checkpoint(x / "image_encoder" / "model.pth.tar-2")["state_dict"] for x in (workspace.output, other)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)

    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run(*TINY, *method, trainer="AdvTrain", output=workspace.folder / "eval", flags=flags)
    again = results(workspace.folder / "eval")[name]
    assert again["robust"] == found[name]["robust"] and again["backbone"] == found[name]["backbone"]


def tower_of(run):
    return run / "image_encoder" / tuned_tower.FILE


@pytest.mark.parametrize("method", ["TeCoA", "FARE"])
def test_the_tuned_tower_is_the_same_model_in_other_trainers(workspace, method):
    workspace.run(*TINY, *METHODS[method], trainer=method)
    path, trained = tower_of(workspace.output), results(workspace.output)
    workspace.run(*TINY, "MODEL.IMAGE_WEIGHTS", str(path), trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    loaded = results(workspace.folder / "zs")
    assert sorted(loaded) == sorted(trained)
    for name, result in loaded.items():
        assert (result["clean"], result["robust"]) == (trained[name]["clean"], trained[name]["robust"])
        assert result["backbone"]["image"] == trained[name]["backbone"]["image"]
        assert result["backbone"]["text"] == trained[name]["backbone"]["text"]

    tower = build(workspace, "AdvPT", "MODEL.IMAGE_WEIGHTS", str(path)).backbone
    run = build(workspace, method, *METHODS[method])
    base = run.backbone.image_digest
    run.load_model(str(workspace.output))
    pixels = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(tower.image(pixels), run.backbone.copy().image(pixels))

    made = tuned_tower.read_provenance(path)
    assert made.image == tower.image_digest != base == made.base.image
    assert (made.base.name, made.base.text) == ("tiny", tower.text_digest)
    assert (made.mean, made.std, made.size) == (tower.card.image.mean, tower.card.image.std, (16, 16))
    assert (made.activation, made.trainer, made.dataset) == ("quickgelu", method, "TinyPhotos")
    assert (made.shots, made.seed, made.epoch) == (-1, 1, 2)
    assert made.training["attack"] == str(run.attack_spec) and made.training["images"] == 15


def test_prompts_are_tuned_on_a_tuned_tower(workspace):
    workspace.run(*TINY, *METHODS["TeCoA"], trainer="TeCoA")
    tower = ("MODEL.IMAGE_WEIGHTS", str(tower_of(workspace.output)))
    workspace.run(*tower, output=workspace.folder / "prompt")
    digest = tuned_tower.read_provenance(tower_of(workspace.output)).image
    assert {result["backbone"]["image"] for result in results(workspace.folder / "prompt").values()} == {digest}


def test_a_record_says_which_file_a_tuned_tower_began_with(workspace):
    quick = (*TINY, *METHODS["TeCoA"], "EVAL.ATTACKS", "('pgd2-ce@8',)", "EVAL.PROTOCOLS", "('transfer',)")
    workspace.run(*quick, trainer="TeCoA")
    path = tower_of(workspace.output)
    (plain,), tower = results(workspace.output).values(), ("MODEL.IMAGE_WEIGHTS", str(path))
    assert "image_file" not in plain["backbone"]
    workspace.run(*quick, *tower, trainer="TeCoA", output=workspace.folder / "two")
    (tuned,) = results(workspace.folder / "two").values()
    assert tuned["backbone"]["image"] != plain["backbone"]["image"] == tuned_tower.read_provenance(path).image
    assert tuned["backbone"]["image_file"]["sha256"] == file_digest(path)


def test_the_best_tower_is_saved_where_the_best_is_evaluated(workspace, monkeypatch):
    accuracies = iter([80.0, 20.0])
    real = EncoderTrainer.test
    monkeypatch.setattr(
        EncoderTrainer, "test", lambda self, split=None: next(accuracies) if split else real(self, split)
    )
    best = ("TEST.FINAL_MODEL", "best_val", "EVAL.ATTACKS", "()")
    workspace.run(*TINY, *METHODS["TeCoA"], *best, trainer="TeCoA")
    made = tuned_tower.read_provenance(tower_of(workspace.output))
    saved = load_checkpoint(workspace.output / "image_encoder" / "model-best.pth.tar")
    visual = {k.removeprefix("visual."): v for k, v in saved["state_dict"].items() if k.startswith("visual.")}
    assert made.epoch == saved["epoch"] == 1
    assert tensor_digest(load_safetensors(tower_of(workspace.output))) == tensor_digest(visual) == made.image


def test_a_stopped_run_leaves_no_tower_and_its_continuation_a_whole_one(workspace, monkeypatch):
    workspace.run(*TINY, *METHODS["TeCoA"], trainer="TeCoA")
    killed, whole = workspace.folder / "killed", tower_of(workspace.output).read_bytes()
    for place in ("test", "save_tower"):
        real = getattr(EncoderTrainer, place)

        def dies(self, *args):
            raise KeyboardInterrupt

        monkeypatch.setattr(EncoderTrainer, place, dies)
        assert workspace.call(*TINY, *METHODS["TeCoA"], trainer="TeCoA", output=killed)[0] == 130
        assert not tower_of(killed).exists() and not (killed / "done.json").exists()
        monkeypatch.setattr(EncoderTrainer, place, real)
    workspace.run(*TINY, *METHODS["TeCoA"], trainer="TeCoA", output=killed)
    assert tower_of(killed).read_bytes() == whole


def test_a_schedule_by_steps_survives_a_kill_in_the_middle_of_an_epoch(workspace, monkeypatch):
    settings = (*TINY, *METHODS["TeCoA"], "OPTIM.MAX_EPOCH", "8", "TRAINER.TECOA.WARMUP_STEPS", "2",
                "EVAL.ATTACKS", "()")  # fmt: skip
    real, rates = EncoderTrainer.forward_backward, []

    def noting(self, batch):
        rates.append(self.get_current_lr())
        return real(self, batch)

    monkeypatch.setattr(EncoderTrainer, "forward_backward", noting)
    workspace.run(*settings, trainer="TeCoA")
    whole, steps = list(rates), 24
    assert whole == pytest.approx([1e-3 * warmup_cosine(step, 2, steps) for step in range(steps)])
    assert whole[:2] == [0.0005, 0.001]

    rates.clear()
    for last in (1, 10):  # within the warm-up, and in the fourth epoch

        def stops(self, batch, last=last):
            losses = noting(self, batch)
            if len(rates) == last:
                signal.raise_signal(signal.SIGINT)  # which waits for the end of the batch
            return losses

        monkeypatch.setattr(EncoderTrainer, "forward_backward", stops)
        assert workspace.call(*settings, trainer="TeCoA", output=workspace.folder / "killed")[0] == 130
        assert len(rates) == last
    monkeypatch.setattr(EncoderTrainer, "forward_backward", noting)
    workspace.run(*settings, trainer="TeCoA", output=workspace.folder / "killed")
    assert rates == whole
    assert tower_of(workspace.folder / "killed").read_bytes() == tower_of(workspace.output).read_bytes()


def test_too_few_steps_warm_up_for_a_tenth_and_a_schedule_that_nothing_reads_is_named(workspace, caplog):
    made = build(workspace, "TeCoA", "OPTIM.MAX_EPOCH", "8")
    assert made.warmup_steps == 2 == made.training_facts()["warmup_steps"]
    assert "warm up" not in caplog.text, "an evaluation has no steps"
    made.prepare_training()
    assert "TRAINER.TECOA.WARMUP_STEPS is 1000, and there are 24 steps in all: 2 of them warm up" in caplog.text
    assert not any("not read" in line for line in made.set_up_warnings())
    made = build(workspace, "TeCoA", "OPTIM.WARMUP_EPOCH", "1")
    assert any("OPTIM.WARMUP_EPOCH 1 are not read: TRAINER.TECOA" in line for line in made.set_up_warnings())
    made = build(workspace, "TeCoA", "OPTIM.WARMUP_EPOCH", "1", "TRAINER.TECOA.WARMUP_STEPS", "-1")
    assert not any("not read" in line for line in made.set_up_warnings())
    assert "warmup_steps" not in made.training_facts()
    assert build(workspace, "TeCoA", "OPTIM.MAX_EPOCH", "0").warmup_steps == 0, "nothing is trained"
    caplog.clear()
    for asked, steps in ((11, 11), (12, 2)):  # of 24: less than half of them, and half
        made = build(workspace, "TeCoA", "OPTIM.MAX_EPOCH", "8", "TRAINER.TECOA.WARMUP_STEPS", str(asked))
        made.prepare_training()
        assert (made.warmup_steps, "warm up" in caplog.text) == (steps, steps != asked)


def test_tecoas_loss_is_the_cross_entropy_of_what_it_attacks(workspace):
    made = build(workspace, "TeCoA", *METHODS["TeCoA"])
    pixels, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    attacked = made.perturb(pixels, labels, 5)
    assert 0 < (attacked - pixels).abs().max() <= 1 / 255 + 1e-6
    features, scale = made.image_encoder(attacked), made.backbone.logit_scale
    expected = losses.advpt(features, made.zero_shot.features, scale, labels)
    torch.testing.assert_close(made.robust_loss(pixels, labels, 5), expected)


def test_fast_at_warns_of_catastrophic_overfitting(workspace, monkeypatch, caplog):
    trainer = build(workspace, "FastAT", *METHODS["FastAT"])
    trainer.last_batch = next(iter(trainer.train_loader_x))
    trainer.epoch, trainer.before = 0, 150.0
    monkeypatch.setattr(EncoderTrainer, "after_epoch", lambda self: None)
    trainer.after_epoch()
    assert "catastrophic" in caplog.text and trainer.before <= 100


def test_words_curves_and_pictures_of_a_prompt(workspace):
    asked = ("EVAL.WORDS", "2", "EVAL.PICTURES", "2", "TRAIN.CURVE_FREQ", "2")
    workspace.run(*asked)
    found = results(workspace.output)["test_transfer_pgd2-fkl@8-a5.json"]
    words = found["words"]
    assert len(words["trained"]["per_vector"]) == 4 == len(words["untrained"]["per_vector"])
    assert words["trained"]["overall"] and words["trained"]["searched"] == 49406
    assert [row["epoch"] for row in found["training"]["curve"]] == [2, 3]
    observed = records.read(workspace.output / "records" / "test_transfer_pgd2-fkl@8-a5.json").observed
    assert observed.training.before > 0, "building the bank counts"
    about = json.loads((workspace.output / "pictures" / "pictures.json").read_text())
    assert len(about["pictures"]) == 2 and len(list((workspace.output / "pictures").glob("*.png"))) == 6
    from advpt.evaluation.record import Record

    assert about["record"] == Record.from_json(found, {}).id

    # a second run takes the bank's time from who built it; an evaluation alone says where its prompt is from
    workspace.run(*asked, seed=2, output=workspace.folder / "two")
    second = records.read(workspace.folder / "two" / "records" / "test_transfer_pgd2-fkl@8-a5.json").observed.training
    assert second.before == observed.training.before
    flags = ("--eval-only", "--skip-done", "--model-dir", str(workspace.output))
    workspace.run("EVAL.WORDS", "2", output=workspace.folder / "eval", flags=flags)
    again = results(workspace.folder / "eval")["test_transfer_pgd2-fkl@8-a5.json"]
    assert again["words"] == words and again["training"]["loaded"] == {
        "epoch": 3, "trainer": "AdvPT", "dataset": "TinyPhotos", "seed": 1,
    }  # fmt: skip
    assert "done already" in workspace.run("EVAL.WORDS", "2", output=workspace.folder / "eval", flags=flags)
    shutil.rmtree(workspace.folder / "eval" / "records")
    assert "done already" not in workspace.run("EVAL.WORDS", "2", output=workspace.folder / "eval", flags=flags)
