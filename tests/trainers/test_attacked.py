"""The peers of AdvPT whose prompts are tuned on attacked pixels: APT, FAP, CAPT, TRADES, three multimodal designs."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from advpt import losses
from advpt.backbones.clip import build
from advpt.bank.store import open_bank
from advpt.checkpoints import load_checkpoint
from advpt.files import file_digest
from tests.helpers.peers import CLEAN, DEEP, PEERS, make, settings
from tests.helpers.records import FACTS
from tests.helpers.workspace import Workspace, results, write_weights
from trainers.attacked import AttackedTrainer

TRANSFER, ADAPTIVE = "test_transfer_pgd2-ce@8-a8.json", "test_adaptive_pgd2-ce@8-a8.json"


@pytest.fixture(scope="module")
def deep_file(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "deep.pt", DEEP)


@pytest.fixture
def workspace(tmp_path, deep_file) -> Workspace:
    return Workspace(tmp_path, deep_file)


def pixels(n=4):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3)), torch.arange(n) % 3


@pytest.mark.parametrize("trainer", (*PEERS, CLEAN))
def test_a_step_tunes_the_prompts_alone_and_lowers_the_loss(workspace, trainer):
    made = make(workspace, trainer, "OPTIM.LR", "0.002", "OPTIM.WARMUP_EPOCH", "-1")
    batch = next(iter(made.train_loader_x))
    frozen = {name: value.clone() for name, value in made.backbone.model.state_dict().items()}
    before = [p.detach().clone() for p in made.prompt_learner.parameters()]
    said = [made.forward_backward(batch) for _ in range(8)]
    assert all(not torch.equal(p, old) for p, old in zip(made.prompt_learner.parameters(), before))
    assert all(torch.equal(value, frozen[name]) for name, value in made.backbone.model.state_dict().items())
    assert all(p.grad is None for p in made.backbone.model.parameters())
    assert said[-1]["loss"] < said[0]["loss"]
    if trainer in ("FAP", "CAPT", "TradesPT"):
        assert {"ce_clean", "consistency"} <= said[0].keys(), "what the collapse detector reads"


@pytest.mark.parametrize("trainer", ("FAP", "AdvVPT", "APT", CLEAN))
def test_runs_records_banks_and_checkpoints(workspace, trainer):
    workspace.run(*settings(trainer), "EVAL.ATTACKS", "('pgd2-fkl@8','pgd2-ce@8')", trainer=trainer)
    found = results(workspace.output)
    assert {TRANSFER, ADAPTIVE} <= found.keys()
    assert found[TRANSFER]["training"].get("attack", "none")[:5] == ("none" if trainer == CLEAN else "pgd2-")

    banks = [open_bank(p.parent, None, verify=True) for p in (workspace.folder / "banks").glob("**/manifest.json")]
    by_key = {bank.key: bank.spec for bank in banks}
    clean, transfer, adaptive = (
        by_key[found[name][part]["bank"]]
        for name, part in ((TRANSFER, "clean"), (TRANSFER, "robust"), (ADAPTIVE, "robust"))
    )
    visual = clean["encoder"]["visual_prompt"]
    assert (visual is None) == (trainer in ("APT", CLEAN))
    assert transfer["encoder"]["visual_prompt"] == adaptive["encoder"]["visual_prompt"] == visual
    assert "visual_prompt" not in transfer["adversarial_set"]["attacked"], "transfer attacks CLIP as it is"
    assert adaptive["adversarial_set"]["attacked"].get("visual_prompt") == visual

    checkpoint = workspace.output / "prompt_learner" / "model.pth.tar-2"
    saved = load_checkpoint(checkpoint)["state_dict"]
    maps = {k for k in saved if k.startswith(("couple_", "meta_net."))}
    assert set(saved) <= {"ctx", "ctx_deep", "visual", "visual_deep"} | maps
    about = json.loads((checkpoint.parent / "prompt.json").read_text())
    assert about["prompt"]["layout"] == {"FAP": "v2t", "AdvVPT": "visual"}.get(trainer, "text")
    assert about["training"] == found[TRANSFER]["training"] and about["backbone"]["image"]

    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run(*settings(trainer), trainer=trainer, output=workspace.folder / "eval", flags=flags)
    again = results(workspace.folder / "eval")
    assert all(again[name]["robust"] == found[name]["robust"] for name in (TRANSFER, ADAPTIVE))


def test_the_evaluation_looks_through_the_visual_prompts(workspace):
    """By hand: adversarial images of the plain model (transfer) and of the prompted one, both seen through prompts."""
    from advpt.attacks import parse
    from advpt.attacks.noise import SampleNoise
    from advpt.evaluation.evaluator import evaluate

    made = make(workspace, "AdvIVLP", "EVAL.ATTACKS", "('pgd2-ce@8',)")
    with torch.no_grad():
        for p in made.prompt_learner.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    images, learned, zero_shot = made.image_set("test"), made.classifier(), made.zero_shot
    found = evaluate(made.prompts(), images, made.bank_cache, made.eval_settings, FACTS)
    (batch,) = images.batches(range(len(images)), 64, 0)
    encoder, names = made.backbone.require_image(), images.ids

    def prompted(x):
        return learned.logits(encoder.features(x, learned.visual))

    banks = {p.parent.name: open_bank(p.parent, None, verify=True)
             for p in (workspace.folder / "banks").glob("**/manifest.json")}  # fmt: skip
    for kept, through in ((found[0], lambda x: zero_shot.logits(encoder(x))), (found[1], prompted)):
        chunks = []
        for start in range(0, len(names), 4):
            part = slice(start, start + 4)
            noise = SampleNoise(names[part], 0)
            chunks.append(parse("pgd2-ce@8").build()(through, batch.pixels[part], batch.labels[part], noise).images)
        expected = encoder.features(torch.cat(chunks), learned.visual)
        assert torch.allclose(banks[kept.result.robust.bank].embeddings, expected, atol=1e-5)
        right = prompted(torch.cat(chunks)).argmax(1) == batch.labels
        assert kept.result.robust.outcomes().tolist() == right.tolist()
    assert found[0].result.clean.outcomes().tolist() == (prompted(batch.pixels).argmax(1) == batch.labels).tolist()


@pytest.mark.parametrize("trainer", ("APT", "AdvMaPLe"))
def test_text_computed_once_makes_the_same_images(workspace, trainer):
    made = make(workspace, trainer, *(("TRAINER.ADVMAPLE.LOSS", "adv_full") if trainer == "AdvMaPLe" else ()))
    x, y = pixels()
    state = made.prompt_learner()
    once = made.perturb(x, y, state, made.text_features(state).detach())

    def again(p):
        state = made.prompt_learner()
        visual = state.visual.detach() if state.visual is not None else None
        text = made.text_features(state).detach()

        return made.backbone.logit_scale * F.normalize(made.image_encoder.features(p, visual), dim=-1) @ text.T

    seed = (made.seed * 1_000_003 + made.epoch) * 1_000_003 + made.batch_idx
    other = made.attack(again, x, y, torch.Generator().manual_seed(seed % 2**63)).images
    assert torch.equal(once, other) and not torch.equal(once, x)
    assert all(p.grad is None for p in made.prompt_learner.parameters())


@pytest.mark.parametrize("mode", ("onfly", "constant", "perturbed"))
def test_whom_apt_attacks_in_training(workspace, mode, monkeypatch):
    made = make(workspace, "APT", "TRAINER.APT.PROMPT_MODE", mode, "TRAINER.APT.ATTACK", "pgd3-ce@4/a2")
    before = made.prompt_learner.ctx.detach().clone()
    x, y = pixels()
    state = made.prompt_learner()
    seen = []
    real = type(made.prompt_learner).forward

    def spy(self, values=None):
        if values is not None and torch.is_grad_enabled():
            seen.append(values["ctx"].detach().clone())
        return real(self, values)

    monkeypatch.setattr(type(made.prompt_learner), "forward", spy)
    attacked = made.perturb(x, y, state, made.text_features(state).detach())
    assert torch.equal(made.prompt_learner.ctx, before) and made.prompt_learner.ctx.grad is None
    onfly = AttackedTrainer.attacked_model(made, y, state, made.text_features(state).detach())
    noise = torch.Generator().manual_seed((made.seed * 1_000_003) * 1_000_003 % 2**63)
    same = torch.equal(attacked, made.attack(onfly, x, y, noise).images)
    assert same == (mode == "onfly")
    if mode == "perturbed":
        assert len(seen) == 3 and torch.equal(seen[0], before)
        assert not torch.equal(seen[1], before) and not torch.equal(seen[2], seen[1])


def test_half_of_the_batch_stays_clean(workspace):
    x, y = pixels(5)
    for loss, clean in (("adv_half", 2), ("adv_full", 0), ("clean", 5), ("trades", 0)):
        made = make(workspace, "AdvVPT", "TRAINER.ADVVPT.LOSS", loss)
        state = made.prompt_learner()
        attacked = made.perturb(x, y, state, made.text_features(state))
        assert [torch.equal(a, b) for a, b in zip(attacked, x)] == [i < clean for i in range(5)]


@pytest.mark.parametrize(("trainer", "seed"), (("CAPT", 0), ("CAPT", 1), (CLEAN, 0)))
def test_the_same_seed_gives_the_same_prompts(workspace, trainer, seed):
    folders = [workspace.folder / name for name in ("a", "b")]
    for folder in folders:
        workspace.run(*settings(trainer), "EVAL.ATTACKS", "()", trainer=trainer, seed=seed, output=folder)
    one, two = (load_checkpoint(f / "prompt_learner" / "model.pth.tar-2")["state_dict"] for f in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)
    if seed:
        return
    workspace.run(*settings(trainer), "EVAL.ATTACKS", "()", trainer=trainer, seed=2, output=workspace.folder / "c")
    other = load_checkpoint(workspace.folder / "c" / "prompt_learner" / "model.pth.tar-2")["state_dict"]
    assert all(not torch.equal(one[name], other[name]) for name in one)


def test_capt_options(workspace, deep_file):
    made = make(workspace, "CAPT", "TRAINER.CAPT.ALPHA_RULE", "schedule", "TRAINER.CAPT.FROZEN_WEIGHTS", str(deep_file),
                "TRAINER.CAPT.FROZEN_TEMPLATE", "a drawing of a {}.")  # fmt: skip
    assert made.training_facts()["frozen"]["image"] == made.frozen.image_digest
    assert made.frozen is not made.backbone and not torch.equal(made.guide.features, made.zero_shot.features)
    batch = next(iter(made.train_loader_x))
    alphas = []
    for made.epoch in (0, 1):
        alphas.append(made.forward_backward(batch)["alpha"])
    assert alphas == [1.0, 0.0]
    plain = make(workspace, "CAPT")
    assert plain.frozen is plain.backbone and torch.equal(plain.guide.features, plain.zero_shot.features)


def test_a_prompt_moves_to_new_classes_unless_it_is_class_specific(workspace):
    new = ("DATASET.SUBSAMPLE_CLASSES", "new")
    base = ("DATASET.SUBSAMPLE_CLASSES", "base")
    for trainer in ("CAPT", CLEAN):
        tuned, moved = workspace.folder / f"base {trainer}", workspace.folder / f"new {trainer}"
        flags = ("--eval-only", "--model-dir", str(tuned))
        workspace.run(*settings(trainer), *base, trainer=trainer, output=tuned)
        workspace.run(*settings(trainer), *new, trainer=trainer, output=moved, flags=flags)
        assert results(moved)[TRANSFER]["training"]["loaded"]["trainer"] == trainer
    csc, there = ("TRAINER.ADVIVLP.CSC", "True"), workspace.folder / "csc"
    workspace.run(*settings("AdvIVLP"), *base, *csc, "EVAL.ATTACKS", "()", trainer="AdvIVLP", output=there)
    flags = ("--eval-only", "--model-dir", str(there))
    code, said = workspace.call(
        *settings("AdvIVLP"), *new, *csc, trainer="AdvIVLP", output=workspace.folder / "no", flags=flags
    )
    assert code == 2 and "fits only the class list it was tuned on" in said


def test_what_is_refused_before_anything_is_loaded(workspace):
    for trainer, more, said in (
        ("AdvVPT", ("MODEL.BACKBONE.NAME", "RN50"), "RN50's image encoder is a ResNet"),
        ("FAP", ("TRAINER.FAP.DEPTH_TEXT", "13", "TRAINER.FAP.DEPTH_VISION", "13", "MODEL.BACKBONE.NAME", "ViT-B/32"),
         "has 12 blocks"),
        ("APT", ("TRAINER.APT.PROMPT_MODE", "onthefly"), "Did you mean 'onfly'"),
        ("APT", ("TRAINER.APT.ATTACK", "pgd3-fkl@4"), "training attacks go through the tuned prompts"),
        ("AdvMaPLe", ("TRAINER.ADVMAPLE.LOSS", "adv"), "unknown value 'adv'"),
        ("CAPT", ("TRAINER.CAPT.ALPHA_RULE", "magic"), "TRAINER.CAPT.ALPHA_RULE: unknown value 'magic'"),
        ("CAPT", ("TRAINER.CAPT.ALPHA_CONST", "1.5"), "expected a number of at least 0 and at most 1"),
    ):  # fmt: skip
        code, printed = workspace.call(*settings(trainer, *more), trainer=trainer, output=workspace.folder / said)
        assert code == 2 and said in printed, printed
    code, printed = workspace.call(*settings("FAP", "TRAINER.FAP.DEPTH_TEXT", "4", "TRAINER.FAP.DEPTH_VISION", "4"),
                               trainer="FAP")  # fmt: skip
    assert code == 2 and "has 3 blocks" in printed, "a file says how deep it is when it is read"


def test_a_robust_tower_is_in_every_record(workspace, tmp_path):
    torch.manual_seed(1)
    weights = tmp_path / "tower.pth.tar"
    torch.save({"vision_encoder_state_dict": build(DEEP).visual.state_dict()}, weights)
    workspace.run("MODEL.IMAGE_WEIGHTS", str(weights), "EVAL.ATTACKS", "('pgd2-ce@8',)", trainer="ZeroshotCLIP")
    workspace.run("EVAL.ATTACKS", "('pgd2-ce@8',)", trainer="ZeroshotCLIP", output=workspace.folder / "plain")
    robust, plain = (
        results(workspace.output)[TRANSFER]["backbone"],
        results(workspace.folder / "plain")[TRANSFER]["backbone"],
    )
    assert robust["image_file"] == {"sha256": file_digest(weights), "activation": "quickgelu"}
    assert "image_file" not in plain and robust["text"] == plain["text"] and robust["image"] != plain["image"]


def test_a_prompt_of_several_layers_is_not_written_as_coops(workspace):
    from advpt.errors import PromptError
    from advpt.prompts import exchange

    workspace.run(*settings("FAP"), "EVAL.ATTACKS", "()", trainer="FAP")
    with pytest.raises(PromptError, match="also holds couple_deep_bias.*CoOp's checkpoints have no place"):
        exchange.read(workspace.output)


def test_trades_is_capt_with_alpha_0(workspace):
    x, y = pixels()
    capt = make(workspace, "CAPT", "TRAINER.CAPT.ALPHA_RULE", "const", "TRAINER.CAPT.ALPHA_CONST", "0",
                "TRAINER.CAPT.LAMBDA", "2", "TRAINER.CAPT.ATTACK", "pgd2-kl@4/a2")  # fmt: skip
    trades = make(workspace, "TradesPT", "TRAINER.TRADESPT.BETA", "2")
    batch = {"img": x, "label": y}
    for _ in range(2):
        one, two = capt.forward_backward(batch)["loss"], trades.forward_backward(batch)["loss"]
        assert one == pytest.approx(two, rel=1e-5)
    for a, b in zip(capt.prompt_learner.parameters(), trades.prompt_learner.parameters()):
        assert torch.allclose(a, b, atol=1e-6)
    assert losses.capt_alpha("const", torch.zeros(2, 3), torch.zeros(2, 3), y[:2], 0.25).tolist() == [0.25, 0.25]


def test_whole_training_images_are_those_of_the_banks(workspace):
    """``center_crop`` among the transforms: every peer on pixels sees what AdvPT's and CoOp's banks were made of."""
    cases = (("APT", "('center_crop',)", True), ("APT", "()", False))  # without: squeezed into a square
    cases += (("CAPT", "('center_crop',)", True), ("APT", "('center_crop','random_flip')", False))
    for trainer, chosen, alike in cases:
        made = make(workspace, trainer, "INPUT.TRANSFORMS", chosen)
        images = made.image_set("train")
        banked = torch.cat([batch.pixels for batch in images.batches(range(len(images)), 4, 0)])
        rows = {sample.path: i for i, sample in enumerate(images.samples)}
        order = [rows[item.impath] for item in made.dm.dataset.train_x]
        seen = torch.stack([made.train_loader_x.dataset[i]["img"] for i in range(len(order))])
        assert bool(((seen - banked[order]).abs().flatten(1).amax(1) < 1 / 255).all()) is alike
