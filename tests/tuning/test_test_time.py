"""Test-time tuning: reset, order, selection, the step, what reaches which prompt, and many images at once."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from yacs.config import CfgNode

from advpt import losses
from advpt.backbones.clip import Architecture, Backbone, build, from_state
from advpt.errors import ConfigError, PromptError
from advpt.prompts.classifier import from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings, extend_cfg
from advpt.tuning.test_time import DECAY, PromptedCLIP, Tuner, TuningConfig, choose, released_reset
from trainers.tapt import TAPTSettings

SMALL = Architecture(32, 32, 4, 64, 8, 77, 49408, 64, 3)  # 16 patches
NAMES, TOKENS, DEPTH = ["cat", "St. Bernard", "great_white_shark"], 1 + 16 + 2, 3
DESIGNS = {"V": "visual", "VLI": "independent", "VLJ": "t2v"}
HOW = TuningConfig(views=10, rho=0.3, blocks=(0, 1, 2), align_weight=100 / DEPTH, batch=4)


@pytest.fixture(scope="module")
def clip() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return from_state("small", build(SMALL).state_dict(), "the test suite")


def context(layout: str) -> ContextSettings:
    plain = ContextSettings(2, False, "a photo of a", "end", "fp32")
    return dataclasses.replace(plain, layout=layout, n_vision=2, depth_text=DEPTH, depth_vision=DEPTH)


def learner(clip: Backbone, design: str, seed: int = 0) -> PromptLearner:
    start = torch.Generator().manual_seed(seed)
    return PromptLearner(clip.text, NAMES, context(DESIGNS[design]), start, clip.card)


def references(seed: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(TOKENS, 64, generator=g), torch.rand(TOKENS, 64, generator=g)) for _ in range(3)]


def tuner(clip: Backbone, design: str, config: TuningConfig = HOW, **more) -> Tuner:
    own = more.pop("learner", None) or learner(clip, design)
    encoder = clip.text
    fixed = from_templates(encoder, NAMES, ["a photo of a {}."], clip.logit_scale).features
    model = PromptedCLIP(clip.require_image(), encoder, own, fixed, clip.logit_scale)
    return Tuner(model, dict(own.named_parameters()), config, references(1), references(2), **more)


def pixels(n: int, seed: int = 7) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


IDS = [f"image {i}" for i in range(10)]


# --- reset and order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_every_image_starts_from_the_loaded_prompts(clip: Backbone, design: str) -> None:
    own = learner(clip, design, seed=3)
    checkpoint = {name: value.clone() for name, value in own.state_dict().items()}
    made, x = tuner(clip, design, learner=own), pixels(5)
    tuned = made.tune(made.views(x, IDS[:5]))
    assert set(tuned) == set(checkpoint)
    for name, value in tuned.items():
        assert (value - checkpoint[name]).abs().flatten(1).amax(1).min() > 1e-4, f"{name} was not tuned at all"
    first = made(x, IDS[:5])
    for name, value in checkpoint.items():
        assert torch.equal(made.start[name], value) and torch.equal(own.state_dict()[name], value)
    assert torch.equal(made(x, IDS[:5]), first)
    assert all(p.grad is None for p in own.parameters()) and all(p.grad is None for p in clip.model.parameters())


def test_what_the_released_reset_forgets(clip: Backbone) -> None:
    kept = {}
    for design, layout in DESIGNS.items():
        loaded = {name: value + 1 for name, value in learner(clip, design).state_dict().items()}
        constructed = learner(clip, design).state_dict()
        found = released_reset(layout, loaded, constructed)
        assert found.keys() == loaded.keys()
        kept[design] = {name for name, value in found.items() if torch.equal(value, loaded[name])}
        assert all(torch.equal(found[n], constructed[n]) for n in found.keys() - kept[design])
    assert kept["V"] == set() and kept["VLI"] == {"ctx"} and kept["VLJ"] == set(learner(clip, "VLJ").state_dict())


@pytest.mark.parametrize("batch", (1, 4))
@pytest.mark.parametrize("design", DESIGNS)
def test_an_image_does_not_depend_on_its_company(clip: Backbone, design: str, batch: int) -> None:
    made, x = tuner(clip, design, dataclasses.replace(HOW, batch=batch)), pixels(6)
    found = made(x, IDS[:6])
    order = [4, 0, 5, 2, 1, 3]
    assert torch.equal(made(x[order], [IDS[i] for i in order]), found[order])
    assert torch.equal(made(x[2:3], IDS[2:3]), found[2:3]), "a last batch that is not full has the same size"
    assert not torch.equal(made(x[2:3], IDS[3:4]), found[2:3]), "another id sees other views"


def test_prompts_go_on_within_an_interval(clip: Backbone) -> None:
    config = dataclasses.replace(HOW, reset_every=3, batch=3)
    made, x = tuner(clip, "VLI", config), pixels(8)
    found = made(x, IDS[:8])
    alone = tuner(clip, "VLI")(x, IDS[:8])
    now, expected = None, []
    for i in range(8):
        now = made.tune(made.views(x[i : i + 1], IDS[i : i + 1]), None if i % 3 == 0 else now)
        expected.append(made.predict(now, x[i : i + 1])[0])
    assert torch.allclose(found, torch.stack(expected), atol=2e-5)
    gap = (found - alone).abs().amax(1)
    assert gap[[0, 3, 6]].max() < 2e-5 and gap[[1, 2, 4, 5, 7]].min() > 1e-4


@pytest.mark.parametrize("design", DESIGNS)
@torch.no_grad()  # a tuned text tower computes in another order, with other last bits
def test_no_step_is_the_model_as_it_was(clip: Backbone, design: str) -> None:
    made, x = tuner(clip, design, dataclasses.replace(HOW, steps=0)), pixels(5)
    state = made.model.learner()
    embedded = clip.require_image().features(x, state.visual)
    text = torch.nn.functional.normalize(made.model.text(state.text), dim=-1) if state.text else made.model.fixed
    logits = clip.logit_scale * torch.nn.functional.normalize(embedded, dim=-1) @ text.T
    assert torch.equal(made(x, IDS[:5]), logits)


@pytest.mark.parametrize("design", DESIGNS)
def test_many_images_at_once(clip: Backbone, design: str) -> None:
    made, x = tuner(clip, design), pixels(8)
    seen = made.views(x, IDS[:8])
    kept = made.kept_views(seen, None)
    values = made.untouched(8)
    together = made.loss(dict(values), kept)[0]
    for i in range(8):
        one = made.loss(made.untouched(1), kept[i : i + 1])[0]
        assert abs(float(one[0] - together[i])) < 1e-5 * max(1, abs(float(one[0])))
    one_by_one = tuner(clip, design, dataclasses.replace(HOW, batch=1))(x, IDS[:8])
    found = tuner(clip, design, dataclasses.replace(HOW, batch=8))(x, IDS[:8])
    assert torch.allclose(found, one_by_one, atol=1e-4) and torch.equal(found.argmax(1), one_by_one.argmax(1))


def test_a_plain_loop_over_all_views_gives_the_same(clip: Backbone) -> None:
    """One image at a time, all views with a graph, PyTorch's AdamW on the learner's own parameters."""
    own = learner(clip, "VLJ", seed=1)
    made, x = tuner(clip, "VLJ", learner=own), pixels(3)
    found = made(x, IDS[:3])
    effect = (found - made.untuned(x)).abs().max()
    checkpoint = {name: value.clone() for name, value in own.state_dict().items()}
    for i in range(3):
        own.load_state_dict(checkpoint)
        optimizer = torch.optim.AdamW(own.parameters(), lr=5e-4)
        seen = made.views(x[i : i + 1], IDS[i : i + 1])[0]
        hidden_states: list[Tensor] = []
        state = own()
        text = torch.nn.functional.normalize(made.model.text(state.text), dim=-1)
        image = torch.nn.functional.normalize(clip.require_image().features(seen, state.visual, hidden_states), dim=-1)
        logits = clip.logit_scale * image @ text.T
        p = logits.softmax(-1)
        rows = (-(p * p.log()).sum(-1)).argsort(stable=True)[:3]
        mean = p[rows].mean(0)
        loss = -(mean * mean.log()).sum()
        for block in range(3):
            tokens = hidden_states[block][rows]
            for m, v in (references(1)[block], references(2)[block]):
                gap = 0.5 * (tokens.mean(0) - m).abs().mean() + 0.5 * (tokens.var(0) - v).abs().mean()
                loss = loss + 100 / DEPTH * 0.5 * gap
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            state = own()
            text = torch.nn.functional.normalize(made.model.text(state.text), dim=-1)
            image = clip.require_image().features(x[i : i + 1], state.visual)
            image = torch.nn.functional.normalize(image, dim=-1)
        gap = (clip.logit_scale * image @ text.T - found[i : i + 1]).abs().max()
        assert gap < 0.05 * effect, "but for coordinates whose gradient is nearly 0, where rounding decides the sign"


def test_views_of_clean_images_may_come_from_their_files(clip: Backbone, tmp_path) -> None:
    from torchvision.transforms.functional import to_pil_image

    path = tmp_path / "large.png"
    to_pil_image(torch.rand(3, 80, 60, generator=torch.Generator().manual_seed(0))).save(path)
    made = tuner(clip, "V", dataclasses.replace(HOW, source="file"), files={IDS[0]: path, IDS[1]: path})
    x = pixels(1)
    clean, attacked = made.views(x, IDS[:1], clean=True), made.views(x, IDS[:1])
    assert clean.shape == attacked.shape == (1, 10, 3, 32, 32) and torch.equal(clean[:, 0], x)
    assert not torch.equal(clean[:, 1:], attacked[:, 1:])
    assert torch.equal(attacked, tuner(clip, "V").views(x, IDS[:1], clean=True)), "the default takes the tensor"
    assert not torch.equal(made(x, IDS[:1], clean=True), made(x, IDS[:1]))
    assert not torch.equal(made.views(x, IDS[1:2], clean=True)[:, 1:], clean[:, 1:]), "another id, other crops"


def test_half_precision_is_close(clip: Backbone) -> None:
    exact, half = (
        tuner(clip, "VLI", dataclasses.replace(HOW, precision=p))(pixels(4), IDS[:4]) for p in ("fp32", "amp")
    )
    assert half.dtype == torch.float32 and not torch.equal(exact, half) and torch.allclose(exact, half, atol=0.3)


# --- losses and selection -----------------------------------------------------------------------------------------


def test_the_least_uncertain_views_are_kept() -> None:
    logits = torch.randn(5, 64, 7, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    rows = choose(logits, TuningConfig().kept)
    assert rows.shape == (5, 6)
    for one, chosen in zip(entropy, rows):
        others = [i for i in range(64) if i not in chosen.tolist()]
        assert one[chosen].max() <= one[others].min()
    assert sorted(choose(logits, 64)[0].tolist()) == list(range(64))
    assert choose(torch.zeros(1, 9, 4), 3).tolist() == [[0, 1, 2]]
    assert [dataclasses.replace(HOW, views=v, rho=r).kept for v, r in ((64, 0.1), (5, 0.1), (8, 1.0))] == [6, 1, 8]


def test_entropy_of_the_mean_prediction() -> None:
    logits = 3 * torch.randn(20, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = losses.averaged_entropy(logits)
    p = logits.softmax(-1)
    assert torch.allclose(found, -(p.mean(1) * p.mean(1).log()).sum(-1), atol=1e-12)
    assert bool((found >= -(p * p.log()).sum(-1).mean(-1) - 1e-12).all()) and float(found.max()) <= math.log(7)
    same = logits[:, :1].expand(-1, 6, -1)
    assert torch.allclose(losses.averaged_entropy(same), losses.averaged_entropy(logits[:, :1]), atol=1e-12)


def test_alignment_is_the_distance_to_stored_statistics() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 6, 5, 4, generator=g, dtype=torch.float64)
    own = (x[0].mean(0), x[0].var(0))
    assert float(losses.alignment(x[:1], own, form="norm")) < 1e-12
    assert float(losses.alignment(x[:1], own, unbiased=False)) > 1e-3
    gaps = [(x[1].mean(0) - own[0]).abs(), (x[1].var(0) - own[1]).abs()]
    assert torch.allclose(losses.alignment(x, own)[1], 0.5 * gaps[0].mean() + 0.5 * gaps[1].mean())
    assert torch.allclose(losses.alignment(x, own, form="norm")[1], gaps[0].sum() + gaps[1].sum())
    single = losses.alignment(x[:, :1], (x[0, 0], torch.zeros_like(own[1])))
    assert float(single[0]) == 0 and bool(single.isfinite().all())
    same = x[:1, :1].expand(-1, 6, -1, -1)
    assert float(losses.alignment(same, (x[0, 0], 0 * own[1]), form="norm")) < 1e-12


def test_alpha_weights_and_blocks(clip: Backbone) -> None:
    def value(alpha: float, blocks=(0, 1, 2), **more) -> float:
        config = dataclasses.replace(HOW, alpha=alpha, blocks=blocks)
        made = tuner(clip, "VLI", config)
        banks = {name: more.get(name, getattr(made, name)) for name in ("adversarial", "clean")}
        made.adversarial, made.clean = ([bank[i] for i in blocks] for bank in banks.values())
        return float(made.loss(made.untouched(1), made.views(pixels(1), IDS[:1])[:, :4])[0])

    ends = value(0.0), value(1.0)
    assert ends[0] != pytest.approx(ends[1]) and value(0.25) == pytest.approx(0.75 * ends[0] + 0.25 * ends[1], rel=1e-5)
    other = references(9)
    assert value(1.0, clean=other) == ends[1] and value(0.0, adversarial=other) == ends[0]
    assert value(1.0, adversarial=other) != pytest.approx(ends[1])
    moved = [*references(1)[:2], other[2]]
    assert value(1.0, (0, 1), adversarial=moved) == value(1.0, (0, 1))
    assert value(1.0, (0, 2), adversarial=moved) != pytest.approx(value(1.0, (0, 2)))


@pytest.mark.parametrize("design", DESIGNS)
def test_what_alignment_reaches(clip: Backbone, design: str) -> None:
    made = tuner(clip, design, dataclasses.replace(HOW, entropy_weight=0.0))
    values = {name: value.clone().requires_grad_() for name, value in made.untouched(2).items()}
    made.loss(values, made.views(pixels(2), IDS[:2])[:, :4])[0].sum().backward()
    moved = {name for name, value in values.items() if value.grad is not None and float(value.grad.abs().sum()) > 0}
    text = {name for name in values if name.startswith("ctx")}
    assert moved & text == (text if design == "VLJ" else set())
    assert moved >= set(values) - text


@pytest.mark.parametrize("design", DESIGNS)
def test_gradient_of_the_whole_loss(clip: Backbone, design: str) -> None:
    made = tuner(clip, design, dataclasses.replace(HOW, align_weight=1.0))
    kept = made.kept_views(made.views(pixels(1), IDS[:1]), None)
    values = {name: value.clone().requires_grad_() for name, value in made.untouched(1).items()}
    gradients = torch.autograd.grad(made.loss(values, kept)[0].sum(), list(values.values()))
    for (name, _), gradient in zip(values.items(), gradients):
        step = gradient / gradient.norm() * 2e-3

        def at(sign: int, name=name, step=step) -> float:
            return float(made.loss({**values, name: values[name] + sign * step}, kept)[0].detach())

        assert (at(1) - at(-1)) / 4e-3 == pytest.approx(float(gradient.norm()), rel=0.05), name


@pytest.mark.parametrize("seed", range(4))
def test_a_step_makes_the_loss_smaller(clip: Backbone, seed: int) -> None:
    for config in (
        dataclasses.replace(HOW, align_weight=0.0),
        dataclasses.replace(HOW, lr=5e-5),
    ):
        made = tuner(clip, "VLI", config, learner=learner(clip, "VLI", seed))
        seen = made.views(pixels(2, seed), IDS[:2])
        kept = made.kept_views(seen, None)
        before, after = made.loss(made.untouched(2), kept)[0], made.loss(made.tune(seen), kept)[0]
        assert bool((after < before).all())


@pytest.mark.parametrize("scale", (1.0, 1000.0))
def test_the_first_step_of_adamw_has_one_size(clip: Backbone, scale: float) -> None:
    made = tuner(clip, "VLJ", dataclasses.replace(HOW, entropy_weight=scale, align_weight=scale))
    seen = made.views(pixels(2), IDS[:2])
    values = {name: value.clone().requires_grad_() for name, value in made.untouched(2).items()}
    made.loss(values, made.kept_views(seen, None))[0].sum().backward()
    for name, value in made.tune(seen).items():
        moved = value - values[name] * (1 - 5e-4 * DECAY)
        large = values[name].grad.abs() > 1e-4 * scale
        assert large.any() and (moved[large].abs() - 5e-4).abs().max() < 1e-6


def test_an_image_without_a_finite_gradient_is_named(clip: Backbone, caplog) -> None:
    made, x = tuner(clip, "V"), pixels(3)
    good = made(x, IDS[:3])
    assert not made.not_finite
    loss = made.loss

    def broken(values, kept):
        found, parts = loss(values, kept)
        return found * torch.tensor([1.0, float("nan"), 1.0, 1.0]), parts

    made.loss = broken
    found = made(x, IDS[:3])
    assert set(made.not_finite) == {IDS[1]} and "image 1" in caplog.text
    assert torch.equal(found[[0, 2]], good[[0, 2]])
    assert torch.allclose(found[1], made.untuned(x)[1], atol=1e-4)


# --- for attackers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("steps", (1, 2))
def test_the_unrolled_step_is_the_step(clip: Backbone, design: str, steps: int) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    made, x = tuner(clip, design, dataclasses.replace(HOW, steps=steps)), pixels(2).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        found = made.unrolled(x, IDS[:2], HOW.seed)
    assert torch.allclose(found, made(x.detach(), IDS[:2]), atol=5e-3)
    label = torch.tensor([0, 1])
    (through,) = torch.autograd.grad(torch.nn.functional.cross_entropy(found, label), x)
    values = made.tune(made.views(x.detach(), IDS[:2]))
    around = made.attackable(values, x)
    (fixed,) = torch.autograd.grad(torch.nn.functional.cross_entropy(around, label), x)
    assert bool(through.isfinite().all()) and not torch.allclose(through, fixed, rtol=1e-2), "the step has a gradient"


# --- settings -----------------------------------------------------------------------------------------------------


def configured(context: ContextSettings, **changed: object) -> TuningConfig:
    cfg = CfgNode({"TRAINER": CfgNode(), "MODEL": CfgNode(), "TRAIN": CfgNode(), "DATASET": CfgNode()})
    extend_cfg(cfg)
    for name, value in changed.items():
        cfg.TRAINER.TAPT[name] = value
    return TAPTSettings.from_cfg(cfg).tuning(context, 12)


def test_profiles() -> None:
    deep = dataclasses.replace(context("t2v"), depth_vision=9)
    sound, paper, released = (configured(deep, PROFILE=p) for p in ("sound", "paper", "released"))
    assert sound == TuningConfig(blocks=tuple(range(9)), align_weight=100 / 9)
    assert paper == dataclasses.replace(
        sound, blocks=tuple(range(12)), form="norm", align_weight=1 / 12, text="dataset"
    )
    assert released == dataclasses.replace(
        sound, resets=("constructed",), blocks=tuple(range(8)), variance="biased", crops="random", precision="amp",
        source="file",
    )  # fmt: skip
    more = {"RESET_SOURCE": ("loaded",), "BLOCKS": (2, 5), "ALIGN_W": 0.0, "VARIANCE": "unbiased"}
    assert configured(deep, PROFILE="released", **more) == dataclasses.replace(
        released, resets=("loaded",), blocks=(2, 5), align_weight=0.0, variance="unbiased"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        ({"PROFILE": "papr"}, "TRAINER.TAPT.PROFILE.*Did you mean 'paper'"),
        ({"RESET_SOURCE": ("load",)}, "RESET_SOURCE.*Did you mean 'loaded'"),
        (
            {"RHO": 0.0, "VIEWS": 0},
            "(?s)VIEWS is 0; expected a number of at least 1.*RHO is 0.0; expected a number above 0 and at most 1",
        ),
        ({"BLOCKS": (12,)}, r"BLOCKS is \(12,\).*has 12"),
        ({"ALIGN_FORM": "l1"}, "ALIGN_FORM: unknown value 'l1'"),
    ),
)
def test_mistakes_in_settings(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(context("t2v"), **changed)


def test_statistics_of_other_tokens_are_refused(clip: Backbone) -> None:
    own = tuner(clip, "V")
    short = [(m[:-1], v[:-1]) for m, v in references(1)]
    with pytest.raises(PromptError, match="statistics of 18 tokens; this model has 19"):
        Tuner(own.model, own.start, HOW, short, references(2))
