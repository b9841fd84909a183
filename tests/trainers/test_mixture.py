"""TAME's training: what is decayed, its auxiliary losses, its files, and that it learns."""

from __future__ import annotations

import json
import signal

import pytest
import torch
import torch.nn.functional as F

from advpt import losses
from advpt.checkpoints import load_checkpoint
from advpt.cli import main
from advpt.evaluation.saved_run import load_run
from tests.helpers.peers import DEEP, make, settings
from tests.helpers.stopping import stop_at
from tests.helpers.workspace import Workspace, results, write_weights
from tests.trainers.test_attacked import pixels
from tests.trainers.test_attacked_learning import photos, small_file  # noqa: F401
from trainers.advpt import to_pixels
from trainers.attacked import AttackedTrainer, Step
from trainers.mixture import mixtures_of

MOE = ("AdvIVLPMoE", "AdvVPTMoE")
ADAPTIVE = "test_adaptive_pgd2-ce@8-a8.json"


@pytest.fixture(scope="module")
def deep_file(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "deep.pt", DEEP)


@pytest.fixture
def workspace(tmp_path, deep_file) -> Workspace:
    return Workspace(tmp_path, deep_file)


@pytest.mark.parametrize("trainer", MOE)
def test_the_defaults_are_the_recipe(workspace, trainer):
    made = make(workspace, trainer)
    options, plain = made.options, made.settings()
    assert (options.experts, options.router, options.n_vision, options.loss) == (5, "hybrid", 2, "adv_half")
    assert (plain.attack, plain.depth_text, plain.depth_vision, plain.aux_warmup) == ("pgd2-ce@1/a1", 9, 9, 20)
    assert options.balance_w == options.diversity_w == 0
    assert made.context.layout == {"AdvVPTMoE": "visual"}.get(trainer, "independent")


def test_temperatures_and_residual_scales_are_not_decayed(workspace):
    made = make(workspace, "AdvIVLPMoE", "OPTIM.WEIGHT_DECAY", "0.5", "OPTIM.LR", "0.1")
    names = {id(p): name for name, p in made.prompt_learner.named_parameters()}
    decayed, apart = made.optim.param_groups
    assert {names[id(p)] for p in apart["params"]} == {"ctx_tau", "ctx_alpha", "visual_tau", "visual_alpha"}
    assert len(decayed["params"]) + 4 == len(names) and (decayed["weight_decay"], apart["weight_decay"]) == (0.5, 0)
    before = {name: p.detach().clone() for name, p in made.prompt_learner.named_parameters()}
    for p in names and made.prompt_learner.parameters():
        p.grad = torch.zeros_like(p)
    made.optim.step()
    for name, p in made.prompt_learner.named_parameters():
        rate = 1.0 if name.endswith(("_tau", "_alpha")) else 0.95
        torch.testing.assert_close(p.detach(), rate * before[name])
    plain = make(workspace, "AdvIVLP")
    assert len(plain.optim.param_groups) == 1


def test_auxiliary_losses_are_those_of_both_towers_and_rise(workspace):
    made = make(workspace, "AdvIVLPMoE", "TRAINER.ADVIVLPMOE.BALANCE_W", "3", "TRAINER.ADVIVLPMOE.DIVERSITY_W", "2",
                "TRAINER.ADVIVLPMOE.AUX_WARMUP", "4")  # fmt: skip
    x, y = pixels()
    state = made.current_prompts()
    text = made.text_features(state)
    step = Step(x, made.perturb(x, y, state, text.detach()), y, state, text)
    summed = {}
    for made.epoch in (0, 1, 4, 9):
        for each in mixtures_of(state):
            del each.routed[2 if each is state.text.deep else 0 :]
        summed[made.epoch], parts = made.step_loss(step)
    assert [len(each.routed) for each in mixtures_of(state)] == [2, 2] and mixtures_of(state)[0].routed[0].shape == (
        3,
        5,
    )
    balance = sum(losses.balance(w) for each in mixtures_of(state) for w in each.routed)
    diversity = losses.diversity(made.prompt_learner.ctx_experts) + losses.diversity(made.prompt_learner.visual_experts)
    torch.testing.assert_close(parts["balance"], balance.detach())
    torch.testing.assert_close(parts["diversity"], diversity.detach())
    assert balance > 0 and diversity > 0
    aux = float((3 * balance + 2 * diversity).detach())
    ce = F.cross_entropy(made.logits(step, made.features(step, step.attacked)[0]), y).item()
    for epoch, share in ((0, 0), (1, 0.25), (4, 1), (9, 1)):
        assert summed[epoch].item() == pytest.approx(ce + share * aux, rel=1e-4), epoch


def test_without_weights_nothing_is_kept_and_the_loss_is_that_of_its_base(workspace):
    made = make(workspace, "AdvVPTMoE")
    assert all(each.routed is None for each in mixtures_of(made.current_prompts()))
    x, y = pixels()
    batch = {"img": x, "label": y}
    one = made.forward_backward(batch)
    other = make(workspace, "AdvVPTMoE")
    assert one == AttackedTrainer.forward_backward(other, batch) and one.keys() == {"loss"}


@pytest.mark.parametrize("trainer", MOE)
def test_runs_are_loaded_shown_and_resumed(workspace, trainer, monkeypatch, capsys):
    words = (*settings(trainer, f"TRAINER.{trainer.upper()}.ROUTER", "token_mean"), "EVAL.ATTACKS", "('pgd2-ce@8',)")
    workspace.run(*words, trainer=trainer)
    tuned, model = results(workspace.output), load_run(workspace.output, weights=str(workspace.weights))
    assert model.classifier.digest == tuned[ADAPTIVE]["prompt"]
    about = json.loads((workspace.output / "prompt_learner" / "prompt.json").read_text())["prompt"]
    assert (about["experts"], about["router"]) == (5, "token_mean")
    x, _ = pixels()
    assert model.logits(x).shape == (4, 3)

    evaluated = workspace.folder / "eval"  # the router is that of the run, where the command gives none
    plain = (*settings(trainer), "EVAL.ATTACKS", "('pgd2-ce@8',)")
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run(*plain, trainer=trainer, output=evaluated, flags=flags)
    assert results(evaluated)[ADAPTIVE]["robust"] == tuned[ADAPTIVE]["robust"]
    given = (*plain, f"TRAINER.{trainer.upper()}.ROUTER", "cls", f"TRAINER.{trainer.upper()}.EXPERTS", "3")
    code, printed = workspace.call(*given, trainer=trainer, output=workspace.folder / "no", flags=flags)
    assert code == 2 and "EXPERTS 5, this run has 3 and ROUTER token_mean, this run has cls" in printed
    base = trainer.removesuffix("MoE")
    code, printed = workspace.call(*settings(base), trainer=base, output=workspace.folder / "base", flags=flags)
    assert code == 2 and "EXPERTS 5, this run has 0" in printed and f"--trainer {trainer}" in printed
    capsys.readouterr()
    assert main(["prompt", str(workspace.output)]) == 2
    assert "ctx_experts" in (shown := capsys.readouterr().err) or "visual_experts" in shown

    killed = workspace.folder / "killed"
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 1, signal.SIGTERM, AttackedTrainer)
        assert workspace.call(*words, trainer=trainer, output=killed)[0] not in (0, 2)
    workspace.run(*words, trainer=trainer, output=killed)
    one, two = (
        load_checkpoint(run / "prompt_learner" / "model.pth.tar-2")["state_dict"] for run in (workspace.output, killed)
    )
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("trainer", MOE)
def test_robust_loss_falls_on_images_that_it_does_not_train_on(tmp_path, small_file, trainer):  # noqa: F811
    rate = ("OPTIM.LR", "0.002", f"TRAINER.{trainer.upper()}.ATTACK", "pgd2-ce@16/a16")
    made = make(Workspace(tmp_path, small_file), trainer, *rate)
    own, (x, y) = torch.Generator().manual_seed(5), photos(60, torch.Generator().manual_seed(3))
    x = to_pixels(x, made.cfg)

    def robust() -> float:
        state = made.prompt_learner()
        text = made.text_features(state).detach()
        forward = made.attacked_model(y, state, text)
        attacked = made.attack(forward, x, y, torch.Generator().manual_seed(0)).images
        with torch.no_grad():
            return float(F.cross_entropy(forward(attacked), y))

    before = robust()
    for made.batch_idx in range(15):
        images, labels = photos(24, own)
        made.forward_backward({"img": images, "label": labels})
    assert robust() < before / 3
