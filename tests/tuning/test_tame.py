"""TAME at test time: the worked loss, what is tuned and reset, many images at once, what attackers go through."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.backbones.clip import Architecture, Backbone, build, from_state
from advpt.backbones.mixture import LEARNED
from advpt.errors import ConfigError
from advpt.evaluation import tuned
from advpt.prompts.classifier import from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from advpt.test_time import TEST_TIME
from advpt.test_time import parse as parse_defense
from advpt.test_time.base import Draws
from advpt.test_time.selection import choose
from advpt.tuning.tame import PARTS, TAME
from advpt.tuning.tapt import TAPT
from advpt.tuning.test_time import PromptedCLIP, Tuner, TuningConfig
from tests.helpers.fine_tuning import example
from tests.helpers.gradients import central_differences

SMALL = Architecture(32, 32, 3, 64, 8, 77, 49408, 64, 3)
NAMES, TOKENS, DEPTH = ["cat", "St. Bernard", "great_white_shark"], 1 + 16 + 2, 3
DESIGNS = {"V": "visual", "VLI": "independent"}
IDS = [f"image {i}" for i in range(8)]
HOW = dataclasses.replace(
    TAME.profiles["sound"], views=10, rho=0.3, blocks=(0, 1, 2), align_weight=13.25 / 3, batch=4
)  # of a tower with three blocks


@pytest.fixture(scope="module")
def clip() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return from_state("small", build(SMALL).state_dict(), "the test suite")


def tuner(clip: Backbone, design: str = "VLI", config: TuningConfig = HOW, seed: int = 0, experts: int = 3) -> Tuner:
    plain = ContextSettings(2, False, "a photo of a", "end", "fp32", layout=DESIGNS[design], n_vision=2)
    chosen = dataclasses.replace(plain, depth_text=DEPTH, depth_vision=DEPTH, experts=experts)
    own = PromptLearner(clip.text, NAMES, chosen, torch.Generator().manual_seed(seed), clip.card)
    fixed = from_templates(clip.text, NAMES, ["a photo of a {}."], clip.logit_scale).features
    g = torch.Generator().manual_seed(1)
    banks = [[(torch.randn(TOKENS, 64, generator=g), torch.rand(TOKENS, 64, generator=g))] * 3 for _ in range(2)]
    model = PromptedCLIP(clip.require_image(), clip.text, own, fixed, clip.logit_scale)
    return Tuner(model, dict(own.named_parameters()), config, *banks, name="tame")


def pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def test_worked_loss() -> None:
    """Views [layers, tokens, views, width] of the example are [views, tokens, width] of each layer here."""
    inputs, outputs = example("tame_test_time")
    logits, kept = inputs["view_logits"], outputs["kept"]
    rows = choose(logits[None], max(1, int(inputs["ratio"] * len(logits))))[0]
    assert sorted(rows.tolist()) == [int(row) for row in kept]
    tokens = list(inputs["features"].transpose(1, 2))
    banks = [list(zip(inputs[f"{kind}_mean"], inputs[f"{kind}_var"])) for kind in ("adv", "clean")]
    made, parts = losses.tapt(
        logits[rows], tokens, *banks, alpha=inputs["gamma"], align_weight=inputs["weight"] / len(tokens), unbiased=False
    )
    for name, value in (("entropy", parts["entropy"]), ("loss", made), ("alignment", made - parts["entropy"])):
        assert float(value) == pytest.approx(float(outputs[name]), abs=2e-5), name
    for x, kind, bank in ((tokens, "adv", banks[0]), (tokens, "clean", banks[1])):
        distances = [float(losses.alignment(each, pair, unbiased=False)) for each, pair in zip(x, bank)]
        assert distances == pytest.approx(outputs[f"{kind}_distance"].tolist(), abs=2e-6)


def test_the_defaults_are_those_of_the_paper() -> None:
    config = TAME.profiles["sound"]
    assert (config.views, config.kept, config.lr, config.decay, config.alpha) == (256, 25, 5e-3, 5e-4, 0.575)
    assert (config.blocks, config.variance, config.form) == (tuple(range(6)), "biased", "mean")
    assert config.align_weight == pytest.approx(13.25 / 6) and config.steps == config.reset_every == 1


@pytest.mark.parametrize("design", DESIGNS)
def test_everything_is_tuned_by_one_step_of_the_rate_and_reset(clip: Backbone, design: str) -> None:
    made, x = tuner(clip, design), pixels(3)
    before = {name: value.clone() for name, value in made.start.items()}
    values = {name: value.clone().requires_grad_() for name, value in made.untouched(3).items()}
    views = made.views(x, IDS[:3])
    made.loss(values, made.kept_views(views, None))[0].sum().backward()
    now = made.tune(views)
    towers = ("visual",) if design == "V" else ("ctx", "visual")
    assert now.keys() == {*towers, *(f"{tower}_{part}" for tower in towers for part in LEARNED)}
    for name, value in now.items():
        moved = value - before[name] * (1 - 5e-3 * 5e-4)
        large = values[name].grad.abs() > 1e-5
        assert bool(large.any()) != name.endswith("_base"), f"{name}: a base has no part in the prompts at first"
        assert ((moved.abs() - 5e-3).abs()[large] < 2e-5).all(), name
    one = made(x, IDS[:3])
    assert all(torch.equal(made.start[name], value) for name, value in before.items()), "reset to the bit"
    assert torch.equal(made(x, IDS[:3]), one)
    assert (one - made.untuned(x)).abs().max() > 1e-2


@pytest.mark.parametrize("design", DESIGNS)
def test_many_images_at_once(clip: Backbone, design: str) -> None:
    made, x = tuner(clip, design), pixels(6)
    together = made(x, IDS[:6])
    alone = tuner(clip, design, dataclasses.replace(HOW, batch=1))(x, IDS[:6])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-3)  # rounding decides signs of gradients next to 0
    order = [4, 0, 5, 2, 1, 3]
    assert torch.equal(made(x[order], [IDS[i] for i in order]), together[order])
    kept = made.kept_views(made.views(x, IDS[:6]), None)
    losses_together = made.loss(made.untouched(6), kept)[0]
    for i in range(6):
        one = made.loss(made.untouched(1), kept[i : i + 1])[0]
        assert float(one[0]) == pytest.approx(float(losses_together[i]), rel=1e-5)


def test_equal_experts_are_tapt(clip: Backbone) -> None:
    """Where all experts and the base are the prompts of AdvIVLP."""
    plain = ContextSettings(2, False, "a photo of a", "end", "fp32", "independent", 2, DEPTH, DEPTH)
    vli = PromptLearner(clip.text, NAMES, plain, torch.Generator().manual_seed(3), clip.card)
    mixed = tuner(clip)
    start = {"ctx": vli.ctx, "visual": vli.visual}
    for tower in ("ctx", "visual"):
        deep = getattr(vli, f"{tower}_deep")
        start |= {f"{tower}_base": deep, f"{tower}_experts": deep[:, None].expand(-1, 3, -1, -1)}
    mixed.start = dict(mixed.start) | {name: value.detach().clone() for name, value in start.items()}
    mixed.__post_init__()
    model = dataclasses.replace(mixed.model, learner=vli)
    tapt = Tuner(model, dict(vli.named_parameters()), HOW, mixed.adversarial, mixed.clean)
    x = pixels(3)
    torch.testing.assert_close(mixed.untuned(x), tapt.untuned(x), rtol=0, atol=1e-5)
    kept = tapt.kept_views(tapt.views(x, IDS[:3]), None)
    values = [{n: v.clone().requires_grad_() for n, v in each.untouched(3).items()} for each in (mixed, tapt)]
    made = [each.loss(at, kept)[0] for each, at in zip((mixed, tapt), values)]
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-5)
    for each in made:
        each.sum().backward()
    for tower in ("ctx", "visual"):
        shared = values[0][f"{tower}_experts"].grad.sum(2) + values[0][f"{tower}_base"].grad
        torch.testing.assert_close(shared, values[1][f"{tower}_deep"].grad, rtol=1e-3, atol=1e-5)
        assert values[0][f"{tower}_gate_weight"].grad.abs().max() < 1e-6, "equal experts leave nothing to choose"


@pytest.mark.parametrize("part", PARTS)
def test_what_is_frozen_stays(clip: Backbone, part: str) -> None:
    made = tuner(clip, config=dataclasses.replace(HOW, frozen=(part,)))
    views = made.views(pixels(2), IDS[:2])
    now, free = made.tune(views), tuner(clip).tune(views)
    assert list(now) == list(made.start)
    for name, value in now.items():
        stays = name.partition("_")[2].startswith(part)
        assert torch.equal(value, made.start[name].expand_as(value)) == stays, name
        if not stays:
            assert torch.equal(value, free[name])
    assert made.parameters()["how"]["frozen"] == [part] and "frozen" not in tuner(clip).parameters()["how"]


def test_gradient_of_the_whole_loss(clip: Backbone) -> None:
    made = tuner(clip, seed=2)
    kept = made.kept_views(made.views(pixels(1), IDS[:1]), None)
    values = {name: value.clone().requires_grad_() for name, value in made.untouched(1).items()}
    gradients = torch.autograd.grad(made.loss(values, kept)[0].sum(), list(values.values()))
    for (name, _), gradient in zip(values.items(), gradients):
        if name.endswith("_base"):
            continue  # 0 but for rounding
        step = gradient / gradient.norm() * (2e-3 if "gate" not in name else 2e-2)

        def at(sign: int, name=name, step=step) -> float:
            return float(made.loss({**values, name: values[name] + sign * step}, kept)[0].detach())

        size = 2 * float(step.norm())
        assert (at(1) - at(-1)) / size == pytest.approx(float(gradient.norm()), rel=0.06, abs=2e-3), name


# --- its attackers --------------------------------------------------------------------------------------------------


def test_it_is_one_of_the_defenses_at_test_time(clip: Backbone) -> None:
    made, x = tuner(clip), pixels(2)
    defense, encode = TAME(made), clip.require_image()
    assert isinstance(defense, TAPT) and torch.equal(defense(x, IDS[:2], False, encode), made(x, IDS[:2]))
    assert defense.parameters() == made.parameters() and made.parameters()["name"] == "tame"
    assert made.parameters()["how"]["decay"] == 5e-4
    classifier = defense.model.classifier
    torch.testing.assert_close(
        classifier.logits(encode.features(x, classifier.visual)), made.untuned(x), rtol=0, atol=1e-5
    )
    cost = defense.cost()
    assert (cost.forward, cost.backward, cost.text_forward, cost.text_backward) == (10 + 3 + 1, 3, 2, 1)
    (row,) = tuned.rows([made], object(), "TRAINER.TAME", TAME)
    assert isinstance(row.defense, TAME) and row.names == ("tame",)
    with pytest.raises(ConfigError, match=r"starts from the prompts of a run.*--trainer TAMEV or TAMEVLI"):
        parse_defense("tame/views=8")
    assert "tame" not in TEST_TIME


@pytest.mark.parametrize("design", DESIGNS)
def test_what_an_attacker_differentiates(clip: Backbone, design: str) -> None:
    made, encode = tuner(clip, design), clip.require_image()
    unrolled, plain = TAME(made).variants()
    assert unrolled.second_derivative and unrolled.parameters != plain.parameters
    draws, gradients = Draws.of_attacker(torch.Generator().manual_seed(0), 2), []
    for variant in (unrolled, plain):
        x = pixels(2).requires_grad_()
        logits = variant(encode, x, draws)
        gradients.append(torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1])), x)[0])
        with torch.no_grad():
            torch.testing.assert_close(variant(encode, pixels(2), draws), logits.detach(), rtol=0, atol=2e-2)
    assert all(bool(g.isfinite().all()) and float(g.abs().max()) > 0 for g in gradients)
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_the_gradient_of_the_undefended_prompts_is_exact(clip: Backbone) -> None:
    """Through the routers, which read the attacked image: in float64, against central differences."""
    exact = clip.copy()
    exact.model.double()
    for module in exact.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.__class__ = torch.nn.LayerNorm
    image = exact.require_image()
    image.mean, image.std = image.mean.double(), image.std.double()
    state = tuner(clip, seed=5).at_start[0]
    visual = dataclasses.replace(
        state.visual, first=10 * state.visual.first.double(), deeper=state.visual.deeper.each(lambda x: x.double())
    )
    text = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).double()
    central_differences(lambda x: 5 * F.normalize(image.features(x, visual), dim=-1) @ F.normalize(text, dim=-1).T)


@pytest.mark.parametrize("protocol", ("tuned", "adaptive"))
def test_attacks_that_know_the_tuning_go_through_it(clip: Backbone, protocol: str) -> None:
    made, x, y = tuner(clip), pixels(2), torch.tensor([0, 1])
    target = tuned.TunedTarget(made, protocol)
    forward = target.encoder(lambda p: p, IDS[:2], 0, x)
    out = parse("pgd2-ce@8").build()(forward, x, y, SampleNoise(IDS[:2], 0))
    assert bool(out.changed.all()) and float(out.distance.max()) <= 8.001
    if protocol == "tuned":
        torch.testing.assert_close(forward(x), made(x, IDS[:2]), rtol=0, atol=1e-4)
    assert all(p.grad is None for p in made.model.learner.parameters())
