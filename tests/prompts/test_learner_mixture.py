"""Deeper prompts that are mixtures: both towers against the formulas on OpenAI's blocks, what they equal, and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.clip import Backbone
from advpt.backbones.mixture import LEARNED, Mixture, VisualMixture
from advpt.backbones.text_encoder import PromptBatch
from advpt.errors import PromptError
from advpt.prompts.image_encoder import visual_digest
from advpt.prompts.learner import PromptLearner, check_layout
from tests.helpers import towers
from tests.helpers.layouts import NAMES, make, pixels, settings
from tests.helpers.prompts import run_all_positions, tokenize

PARTS = {f"{tower}_{part}" for tower in ("ctx", "visual") for part in LEARNED}
DESIGNS = ("visual", "independent")


def mixed(clip: Backbone, layout: str = "independent", seed: int = 0, **other: object) -> PromptLearner:
    return make(clip, layout, seed, **{"experts": 3, **other})


def by_formula(learner: PromptLearner, tower: str, layer: int, block, rest: Tensor, share: float = 0.7) -> Tensor:
    """Prompts ``[b, n, D]`` of tokens ``[b, T, D]``, as the specification has them."""
    at = {part: getattr(learner, f"{tower}_{part}")[layer - 1] for part in LEARNED}
    h = block.ln_1(rest)
    gate = [F.linear(x, at["gate_weight"], at["gate_bias"]) for x in (h[:, 0], h.mean(1))]
    tau, alpha = F.softplus(at["tau"]).clamp(0.7, 1.3), F.softplus(at["alpha"]).clamp(0, 2)
    w = ((share * gate[0] + (1 - share) * gate[1]) / tau).softmax(-1)
    mixture = sum(w[:, e, None, None] * at["experts"][e] for e in range(w.shape[1]))
    return at["base"] + alpha * (mixture - at["base"])


def hooked(blocks, first: int, n: int, rule: Callable[[int, Tensor], Tensor], depth: int) -> list:
    """Replace n tokens from ``first`` on (negative: from the end) at the input of blocks 1 .. depth - 1 of OpenAI's
    transformer, whose tokens come first and images second."""

    def change(layer: int):
        def hook(module, inputs):
            x = inputs[0].permute(1, 0, 2)
            at = first % x.shape[1]
            own = rule(layer, torch.cat([x[:, :at], x[:, at + n :]], 1))
            return (torch.cat([x[:, :at], own, x[:, at + n :]], 1).permute(1, 0, 2),)

        return hook

    return [blocks[i].register_forward_pre_hook(change(i)) for i in range(1, depth)]


@pytest.mark.parametrize("router", ("hybrid", "cls", "token_mean"))
def test_text_features_are_those_of_all_77_positions(clip: Backbone, router: str) -> None:
    learner, share = mixed(clip, router=router), {"hybrid": 0.7, "cls": 1.0, "token_mean": 0.0}[router]
    ids = tokenize([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    model, x = clip.model, clip.text.embed(ids).detach()
    x = torch.cat([x[:, :1], learner.ctx.expand(3, -1, -1), x[:, 3:]], 1)
    blocks = model.transformer.resblocks
    handles = hooked(blocks, 1, 2, lambda i, rest: by_formula(learner, "ctx", i, blocks[i], rest, share), 3)
    try:
        expected = run_all_positions(model, x, ids)
    finally:
        for handle in handles:
            handle.remove()
    made = clip.text(learner().text)
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)
    names = [name for name, _ in learner.named_parameters() if name.startswith("ctx")]
    own = [getattr(learner, name) for name in names]
    gradients = [torch.autograd.grad((f * f.detach().cos()).sum(), own, retain_graph=True) for f in (made, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_image_features_are_those_of_openais_blocks(clip: Backbone) -> None:
    learner, encoder, x = mixed(clip, "visual"), clip.require_image(), pixels()
    blocks, tower = encoder.visual.transformer.resblocks, encoder.visual

    def enter(module, inputs):  # input prompts stand behind the patches, before the first norm
        return (torch.cat([inputs[0], learner.visual.expand(3, -1, -1)], 1),)

    handles = [tower.ln_pre.register_forward_pre_hook(enter)]
    handles += hooked(blocks, -2, 2, lambda i, rest: by_formula(learner, "visual", i, blocks[i], rest), 3)
    try:
        expected = tower((x - encoder.mean) / encoder.std)
    finally:
        for handle in handles:
            handle.remove()
    hidden_states: list[Tensor] = []
    made = encoder.features(x, learner().visual, hidden_states)
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)
    assert not torch.equal(hidden_states[1][0, -2:], hidden_states[1][1, -2:]), "prompts of each image's own"
    assert torch.equal(hidden_states[0][0, -2:], hidden_states[0][1, -2:])


@pytest.mark.parametrize("layout", DESIGNS)
def test_parameters_and_where_they_start(clip: Backbone, layout: str) -> None:
    chosen = settings(layout, experts=4)
    learner = PromptLearner(clip.text, NAMES, chosen, torch.Generator().manual_seed(0), clip.card)
    own, wide = dict(learner.named_parameters()), {"ctx": 64, "visual": 128}
    towers = ("visual",) if layout == "visual" else ("ctx", "visual")
    assert own.keys() == {f"{tower}_{part}" for tower in towers for part in LEARNED} | {*towers}
    for tower in towers:
        experts, base, gate, bias, tau, alpha = (own[f"{tower}_{part}"] for part in LEARNED)
        d = wide[tower]
        assert experts.shape == (2, 4, 2, d) and experts.std().item() == pytest.approx(0.02, rel=0.1)
        assert torch.equal(base, experts.mean(1)) and gate.shape == (2, 4, d) and bias.shape == (2, 4)
        assert 0.8 / d**0.5 < gate.abs().max() <= 1 / d**0.5 and bias.abs().max() <= 1 / d**0.5
        assert F.softplus(tau).tolist() == F.softplus(alpha).tolist() == pytest.approx([1, 1], abs=1e-6)
    again = PromptLearner(clip.text, NAMES, chosen, torch.Generator().manual_seed(0), clip.card)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), own.values()))


@pytest.mark.parametrize("layout", DESIGNS)
def test_equal_experts_are_plain_prompts(clip: Backbone, layout: str) -> None:
    plain, learner = make(clip, layout, seed=1), mixed(clip, layout)
    with torch.no_grad():
        learner.visual.copy_(plain.visual)
        for tower in ("ctx", "visual") if layout == "independent" else ("visual",):
            deep = getattr(plain, f"{tower}_deep")
            getattr(learner, f"{tower}_base").copy_(deep)
            getattr(learner, f"{tower}_experts").copy_(deep[:, None].expand(-1, 3, -1, -1))
        if layout == "independent":
            learner.ctx.copy_(plain.ctx)
        one, other = plain(), learner()
        encoder, x = clip.require_image(), pixels()
        assert torch.equal(encoder.features(x, one.visual), encoder.features(x, other.visual))
        if one.text is not None:
            torch.testing.assert_close(clip.text(other.text), clip.text(one.text), rtol=0, atol=1e-5)


def test_cls_routes_all_classes_alike_and_the_mean_does_not(clip: Backbone) -> None:
    for router, alike in (("cls", True), ("hybrid", False), ("token_mean", False)):
        state, kept = mixed(clip, router=router)(), []
        assert isinstance(state.text.deep, Mixture)
        clip.text(dataclasses.replace(state.text, deep=dataclasses.replace(state.text.deep, routed=kept)))
        assert len(kept) == 2 and all(w.shape == (3, 3) for w in kept)
        gap = max((w - w[:1]).abs().max().item() for w in kept)
        assert (gap < 1e-6) == alike, (router, gap)


@pytest.mark.parametrize("layout", DESIGNS)
def test_many_samples_at_once(clip: Backbone, layout: str) -> None:
    learners, x, encoder = [mixed(clip, layout, seed) for seed in (1, 2)], pixels(4), clip.require_image()
    values = {name: torch.stack([dict(one.named_parameters())[name].detach() for one in learners])
              for name in dict(learners[0].named_parameters())}  # fmt: skip
    with torch.no_grad():
        state = learners[0](values)
        features = encoder.features(x, state.visual)
        for i, one in enumerate(learners):
            alone = encoder.features(x[2 * i : 2 * i + 2], one().visual)
            torch.testing.assert_close(features[2 * i : 2 * i + 2], alone, rtol=0, atol=1e-5)
            if state.text is not None:
                torch.testing.assert_close(clip.text(state.text)[i], clip.text(one().text), rtol=0, atol=1e-5)
    with pytest.raises(PromptError, match="3 images cannot be shared out evenly among the prompts of 2 samples"):
        encoder.features(x[:3], state.visual)


def test_the_classifier_keeps_the_numbers_of_its_moment(clip: Backbone) -> None:
    learner, x = mixed(clip), pixels()
    classifier = learner.classifier(clip.text, 10.0, torch.zeros(3, 32))
    assert isinstance(classifier.visual, VisualMixture)
    assert not any(part.requires_grad for part in classifier.visual.deeper.named().values())
    before, digest = clip.require_image().features(x, classifier.visual), classifier.digest
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1)
    assert torch.equal(clip.require_image().features(x, classifier.visual), before)
    assert learner.classifier(clip.text, 10.0, torch.zeros(3, 32)).digest != digest
    for name in LEARNED:
        moved = {name: getattr(classifier.visual.deeper, name) + 1}
        other = dataclasses.replace(classifier.visual, deeper=dataclasses.replace(classifier.visual.deeper, **moved))
        assert visual_digest(other) != visual_digest(classifier.visual)


def test_files_of_mixtures_and_of_plain_prompts_are_told_apart(clip: Backbone) -> None:
    learner, plain = mixed(clip, seed=3), make(clip, "independent")
    again = mixed(clip, seed=4)
    again.load_context(learner.state_dict(), "a file")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), learner.parameters()))
    with pytest.raises(PromptError, match="holds no prompts of layout independent .'ctx_experts'."):
        again.load_context(plain.state_dict(), "a file")
    with pytest.raises(PromptError, match="holds no prompts of layout independent .'ctx_deep'."):
        plain.load_context(learner.state_dict(), "a file")
    with pytest.raises(PromptError, match=r"ctx_experts of shape \[2, 3, 2, 64\], this run has \[2, 2, 2, 64\]"):
        mixed(clip, experts=2).load_context(learner.state_dict(), "a file")


def test_class_specific_input_and_other_towers(clip: Backbone) -> None:
    learner = mixed(clip, csc=True)
    text = learner().text
    assert isinstance(text, PromptBatch) and clip.text(text).shape == (3, 32)
    shallow = mixed(clip, depth=1)
    assert {name for name, _ in shallow.named_parameters()} == {"ctx", "visual"}, "one layer has nothing to mix"


@pytest.mark.parametrize("name", ("SigLIP", "MobileCLIP"))
def test_a_router_reads_a_first_token_only_where_there_is_one(name: str) -> None:
    pytest.importorskip("open_clip")
    model = towers.make(name)
    for router in ("hybrid", "token_mean"):
        chosen = settings("independent", depth=2, experts=2, router=router)
        if name == "SigLIP" and router == "hybrid":
            with pytest.raises(
                PromptError, match="images have no class token and texts have no start token; use ROUTER"
            ):
                check_layout(chosen, model.card, name)
            continue
        check_layout(chosen, model.card, name)
        learner = PromptLearner(model.text, ["ab", "c"], dataclasses.replace(chosen, ctx_init=""), None, model.card)
        side = model.card.image.size[0]
        with torch.no_grad():
            state = learner()
            assert model.require_image().features(torch.rand(2, 3, side, side), state.visual).isfinite().all()
            assert model.text(state.text).isfinite().all()
