"""One suite over all defenses at test time: what holds for every method and profile, whatever its formulas."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from advpt.backbones.clip import from_state
from advpt.bank.defended_input import Encode
from advpt.errors import DefenseError
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from advpt.test_time import TEST_TIME, parse
from advpt.test_time.base import DefendedModel, Draws, TestTimeDefense, Variant
from advpt.test_time.counter import CounterPerturbation
from advpt.test_time.counter import plain as plain_variant
from advpt.test_time.dbd import DBD
from advpt.test_time.multi_view import MultiView
from advpt.test_time.prompt_tuning import PromptTuning, ViewFeatures
from advpt.test_time.selection import unit
from tests.helpers.float64 import in_float64
from tests.helpers.tiny_clip import NAMES, defended_model, images

MOST = {"views": 5, "neighbours": 3, "steps": 4}  # of settings that are costly
# Settings under which a method is the undefended model.
NEUTRAL = (
    *("mean/views=1", "conf/views=1", "logits/views=1", "feature/views=1", "zero/views=1", "mta/views=1"),
    *("tpt/steps=0", "ctpt/steps=0", "tpt/lr=0", "ctpt/lr=0", "rtpt/views=1/steps=0", "sstpt/views=1/steps=0"),
    *("rtpt/views=1/lr=0", "sstpt/views=1/lr=0", "sstpt:released/views=1/steps=0/source=tensor"),
    *("ttc/eps=0", "ttc/eps=0/otherwise=zero", "ttc/tau=0/otherwise=zero", "hedge/eps=0"),
    *("anti-adversaries/steps=0", "anti-adversaries/alpha=0", "anti-adversaries/eps=0"),
    *("anti-adversaries:released/steps=0", "et3/alpha=0", "et3/steps=0", "et3/eps=0"),
    *("clipure/share=0", "clipure:paper", "clipure:released/steps=0", "dbd/lambda_high=0/lambda_low=0"),
)
VOTES = ("zero",)  # its logits are shares of votes: the class alone can be compared
# Values of settings that are words.
WORDS = ("off", "tensor", "all", "file", "round", "floor", "learned", "probabilities", "below-1", "reversed", "usual",
         "zero", "fp16", "fp32", "noise", "index")  # fmt: skip
CHANCE = 1 / len(NAMES)
VANISHES = ("released gradient",)  # variants that say that next to nothing of the gradient is left


def text_of(name: str, profile: str) -> str:
    """A defense of small settings, each of which can be changed by itself."""
    values = dataclasses.asdict(TEST_TIME.get(name).profiles[profile])
    less = {key: most for key, most in MOST.items() if isinstance(values.get(key), int) and values[key] > most}
    if values.get("eta") == 0:  # steps of no size are refused
        less["eta"] = 30
    return "/".join([f"{name}:{profile}", *(f"{key}={value}" for key, value in less.items())])


EVERY = [text_of(name, profile) for name in TEST_TIME for profile in TEST_TIME.get(name).profiles]
SOUND = [text_of(name, next(iter(TEST_TIME.get(name).profiles))) for name in TEST_TIME]
every = pytest.mark.parametrize("text", EVERY)
IDS = ("a", "b", "c", "d")


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A tiny CLIP, four images, and defenses of it."""

    model: DefendedModel
    encode: Encode
    pixels: Tensor

    @functools.cache  # noqa: B019 - a fixture of the module
    def build(self, text: str, seed: int = 0) -> TestTimeDefense:
        return parse(text).build(self.model, seed)

    def __call__(self, text: str, rows: tuple[int, ...] = (0, 1, 2, 3), seed: int = 0) -> Tensor:
        """Logits of these images."""
        ids = [IDS[row] for row in rows]
        return self.build(text, seed)(self.pixels[list(rows)], ids, True, self.encode)

    def plain(self) -> Tensor:
        """Logits of the undefended model."""
        with torch.no_grad():
            return self.model.classifier.logits(self.encode(self.pixels))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The images as files, by id."""
    top, paths = tmp_path_factory.mktemp("files"), {}
    for row, pixels in enumerate((255 * images(4, 40)).round().byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(top / f"{row}.png")
        paths |= {IDS[row]: top / f"{row}.png", f"{IDS[row]}2": top / f"{row}.png"}
    return paths


def complete(model: DefendedModel, files: dict[str, Path]) -> DefendedModel:
    """The model with tuned prompts of its own, and with image files."""
    words = ContextSettings(n_ctx=2, csc=False, ctx_init="", position="end", precision="fp32")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = PromptLearner(model.text, NAMES, words)
    return dataclasses.replace(model, learner=learner, files=files)


@pytest.fixture(scope="module")
def exact(tiny_state: dict[str, Tensor], files: dict[str, Path]) -> Setting:
    """In float64."""
    clip = from_state("tiny", tiny_state, "the test suite")
    return Setting(complete(in_float64(clip), files), clip.require_image(), images(4).double())


@pytest.fixture(scope="module")
def single(tiny_state: dict[str, Tensor], files: dict[str, Path]) -> Setting:
    """In float32, as evaluations are."""
    clip = from_state("tiny", tiny_state, "the test suite")
    return Setting(complete(defended_model(clip), files), clip.require_image(), images(4))


def close(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


# --- classification ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NEUTRAL)
def test_a_neutral_setting_is_the_undefended_model(exact: Setting, text: str) -> None:
    logits, plain = exact(text), exact.plain()
    if text.split("/")[0] in VOTES:
        assert torch.equal(logits.argmax(1), plain.argmax(1))
    else:
        close(logits.log_softmax(1), plain.log_softmax(1), 1e-6)


def test_every_profile_of_these_methods_has_a_neutral_setting() -> None:
    neutral = {(spec.name, spec.profile) for spec in map(parse, NEUTRAL)}
    left = {(name, profile) for name, _ in neutral for profile in TEST_TIME.get(name).profiles} - neutral
    assert left == {("ttc", "released"), ("rtpt", "released")}, "half precision; more views than neighbours"


def test_an_image_that_equals_its_flip_is_its_ensemble_with_it(exact: Setting) -> None:
    mirrored = dataclasses.replace(exact, pixels=(exact.pixels + exact.pixels.flip(-1)) / 2)
    close(mirrored("tte/crops=0"), mirrored.plain(), 1e-6)


@every
def test_the_other_images_of_a_batch_and_their_order_do_not_matter(exact: Setting, text: str) -> None:
    whole, apart = exact(text), torch.cat([exact(text, (row,)) for row in range(4)])
    moved = exact(text, (3, 1, 0, 2))[[2, 1, 3, 0]]
    assert exact.build(text).by_image != (text.startswith("clipure:released"))
    if exact.build(text).by_image:
        close(apart, whole)
        close(moved, whole)
    else:
        assert (apart - whole).abs().max() > 1e-9 or (moved - whole).abs().max() > 1e-9


@every
def test_what_an_image_draws_is_by_its_id_and_the_seed(exact: Setting, text: str) -> None:
    defense, other = exact.build(text), exact.build(text, 1)
    same_ids = exact(text)
    other_ids = defense(exact.pixels, [f"{name}2" for name in IDS], True, exact.encode)
    if not (defense.draws_noise and defense.name in VOTES):  # votes may be the same
        assert torch.equal(same_ids, exact(text, seed=1)) != defense.draws_noise
        assert torch.equal(same_ids, other_ids) != defense.draws_noise
    assert (defense.parameters() != other.parameters()) == defense.draws_noise


def test_an_attackers_draws_are_never_those_of_an_evaluation() -> None:
    attacker = Draws.of_attacker(torch.Generator().manual_seed(0), 4)
    assert len(set(attacker.keys)) == 4 and not set(attacker.keys) & set(IDS)
    for purpose in ("views", "ttc"):
        generators = (*attacker.generators(purpose), *Draws(IDS).generators(purpose))
        assert len({generator.initial_seed() for generator in generators}) == 8


@every
def test_a_call_leaves_everything_as_it_was(single: Setting, text: str) -> None:
    defense, before = single.build(text), single.pixels.clone()
    (parameter, *others) = [*single.encode.parameters(), *single.model.text.parameters()]  # type: ignore[attr-defined]
    mark = torch.ones_like(parameter)
    parameter.requires_grad_(True)
    parameter.grad = mark
    try:
        state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        one = single(text)
        single(text, (2, 0))
        with torch.enable_grad():
            again = single(text)
        assert torch.equal(one, again), "nothing is kept between calls"
        assert not again.requires_grad and again.grad_fn is None
        assert torch.equal(state[0], torch.get_rng_state()) and random.getstate() == state[2]
        assert np.array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002
        assert parameter.requires_grad and parameter.grad is mark and torch.equal(mark, torch.ones_like(mark))
        assert not any(each.requires_grad or each.grad is not None for each in others)
        assert torch.equal(single.pixels, before) and not single.pixels.requires_grad
        assert torch.is_grad_enabled() and defense.parameters() == defense.parameters()
    finally:
        parameter.requires_grad_(False)
        parameter.grad = None


@every
def test_half_the_precision_gives_the_same_logits_but_for_rounding(single: Setting, exact: Setting, text: str) -> None:
    if text.startswith(("ttc:released", "clipure:released", "rtpt:released")):
        pytest.skip("it says that rounding decides")
    coarse = single.build(text).uses_gradients or text.startswith("clipure:paper")  # 10 steps of 88 degrees
    close(single(text).double(), exact(text), 1e-2 if coarse else 2e-4)


@every
def test_no_label_is_asked_for(single: Setting, text: str) -> None:
    defense = single.build(text)
    assert list(inspect.signature(defense.classify).parameters) == ["encode", "pixels", "draws", "clean"]
    assert list(inspect.signature(defense.__call__).parameters) == ["pixels", "ids", "clean", "encode"]
    for variant in defense.variants():
        assert list(inspect.signature(variant.logits).parameters) == ["encode", "pixels", "draws"]


@every
def test_what_is_added_to_pixels_stays_in_its_ball_and_in_the_box(exact: Setting, text: str) -> None:
    defense = exact.build(text)
    if not isinstance(defense, CounterPerturbation):
        pytest.skip("it adds nothing to pixels")
    hard = torch.cat([exact.pixels[:2], exact.pixels[2:].round()])  # some at the border
    with torch.no_grad():
        delta = defense.delta(exact.encode, hard, Draws(IDS))  # type: ignore[attr-defined]
    rule = defense.rule(hard) if callable(defense.rule) else defense.rule  # type: ignore[attr-defined]
    sizes = delta.flatten(1).norm(dim=1) if rule.l2 else delta.flatten(1).abs().amax(1)
    assert 0 < sizes.max() <= rule.radius + 1e-6
    if rule.box:
        assert (hard + delta).min() >= -1e-9 and (hard + delta).max() <= 1 + 1e-9
    assert rule.box == getattr(defense.settings, "clip", True)


def over_views(defense: TestTimeDefense) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Logits of an image from the embeddings of its views and of their weak augmentations, ``[b, V, L]`` each."""
    if isinstance(defense, PromptTuning):
        return lambda views, weak: defense.tune_and_answer(ViewFeatures(unit(views), unit(weak)), IDS)
    if isinstance(defense, MultiView):
        return lambda views, weak: defense.combine(views)
    if isinstance(defense, DBD):
        return lambda views, weak: defense._logits(views[:, 0], views[:, 1:], 3)
    return None


@every
def test_the_order_of_views_does_not_matter_and_equal_ones_are_one(exact: Setting, text: str) -> None:
    defense = exact.build(text)
    rule = over_views(defense)
    if rule is None or text.startswith("rtpt:released"):
        pytest.skip("no views, or rounding decides between them")
    generator, tuned = torch.Generator().manual_seed(5), isinstance(defense, PromptTuning)
    with torch.no_grad():
        own = exact.encode(exact.pixels)
        noise = torch.randn(2, 4, 6, own.shape[1], generator=generator)
        views, weak = own[:, None] * (1 + 0.1 * noise)
        order = [0, 4, 2, 5, 1, 3]
        close(rule(views[:, order], weak[:, order]), rule(views, weak), 1e-4 if tuned else 1e-9)  # text is float32
        same, plain = own[:, None].expand(-1, 6, -1), exact.plain()
        equal = rule(same, same)
    if not tuned:  # else the step changes the prompt, whatever the views
        assert torch.equal(equal.argmax(1), plain.argmax(1))
        if defense.name not in VOTES:
            close(equal.log_softmax(1), plain.log_softmax(1), 1e-6)


@pytest.mark.parametrize("text", ("rtpt/steps=0", "rtpt:released/steps=0", "sstpt/steps=0", "sstpt:released/steps=0"))
def test_weights_of_equal_views_do_not_matter(exact: Setting, text: str) -> None:
    rule = over_views(exact.build(text))
    with torch.no_grad():
        same = exact.encode(exact.pixels)[:, None].expand(-1, 6, -1)
        close(rule(same, same), exact.plain(), 1e-5)  # type: ignore[misc]


# --- what it says of itself -------------------------------------------------------------------------------------


def changed(defense: TestTimeDefense) -> Iterator[tuple[str, TestTimeDefense]]:
    """The defense with each setting changed, by the setting's name."""
    for field in dataclasses.fields(defense.settings):
        value = getattr(defense.settings, field.name)
        if isinstance(value, bool):
            candidates: list[Any] = [not value]
        elif isinstance(value, str):
            candidates = [word for word in WORDS if word != value]
        elif isinstance(value, int):
            candidates = [value + 1, value + 2]
        else:
            candidates = [value / 2, value + 0.25, value + 1]
        for candidate in candidates:
            if candidate == value:
                continue
            settings = dataclasses.replace(defense.settings, **{field.name: candidate})
            try:
                defense.check(settings)
            except DefenseError:
                continue
            yield field.name, type(defense)(defense.model, settings, defense.seed)
            break
        else:
            pytest.fail(f"no other value of {field.name} passes {defense.name}'s check")


@every
def test_parameters_are_json_and_every_setting_is_among_them(single: Setting, text: str) -> None:
    defense = single.build(text)
    own = defense.parameters()
    assert json.loads(json.dumps(own)) == own and own["name"] == defense.name
    others = {name: other.parameters() for name, other in changed(defense)}
    assert not [name for name, parameters in others.items() if parameters == own]
    assert len({json.dumps(each, sort_keys=True) for each in others.values()}) == len(others)
    words = dataclasses.replace(single.model.classifier, features=single.model.classifier.features.flip(0))
    assert type(defense)(dataclasses.replace(single.model, classifier=words), defense.settings).parameters() != own


@every
def test_it_costs_as_many_passes_as_it_says(single: Setting, text: str) -> None:
    defense, model = single.build(text), single.model
    counted: dict[str, float] = defaultdict(float)
    single(text)  # whatever is computed once

    def encode(pixels: Tensor) -> Tensor:
        out = single.encode(pixels)
        counted["forward"] += len(pixels)
        if out.requires_grad:
            out.register_hook(lambda gradient: counted.update(backward=counted["backward"] + len(gradient)))
        return out

    def text_pass(module: Any, args: Any, out: Tensor) -> None:
        passes = out.shape[:-1].numel() / len(NAMES)
        counted["text_forward"] += passes
        if out.requires_grad:
            out.register_hook(lambda gradient: counted.update(text_backward=counted["text_backward"] + passes))

    handle = model.text.register_forward_hook(text_pass)
    try:
        defense(single.pixels, IDS, True, encode)
    finally:
        handle.remove()
    says = dataclasses.asdict(defense.cost())
    assert {name: counted[name] / 4 for name in says} == says


# --- what an attacker differentiates ----------------------------------------------------------------------------


ATTACKER = Draws.of_attacker(torch.Generator().manual_seed(1), 4)


def gradient_of(variant: Variant, setting: Setting, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a variant, and the gradient of their cross-entropy."""
    with torch.enable_grad():
        x = setting.pixels.clone().requires_grad_()
        logits = variant(setting.encode, x, ATTACKER)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    return logits.detach(), gradient


@every
def test_variants_are_differentiable_and_give_the_same_values_without_gradients(exact: Setting, text: str) -> None:
    defense, labels = exact.build(text), exact.plain().argmin(1)
    variants = defense.variants()
    names = [variant.name for variant in variants]
    assert names and len(set(names)) == len(names)
    _, plain = gradient_of(plain_variant(exact.model), exact, labels)
    for variant in variants:
        logits, gradient = gradient_of(variant, exact, labels)
        assert json.loads(json.dumps(variant.parameters)) == variant.parameters
        assert logits.shape == (4, 3) and logits.isfinite().all() and gradient.isfinite().all()
        with torch.no_grad():
            close(variant(exact.encode, exact.pixels, ATTACKER), logits)
            part = Draws(ATTACKER.keys[1:3], ATTACKER.seed)
            if defense.by_image:
                close(variant(exact.encode, exact.pixels[1:3], part), logits[1:3])
        ratio = gradient.norm() / plain.norm()
        assert (ratio < 1e-4) if variant.name in VANISHES else (ratio > 1e-3), f"{variant.name}: {ratio}"
        assert gradient.flatten(1).norm(dim=1).min() > 0, "every image has one"


@every
def test_a_variant_says_whether_it_draws_and_whether_it_meets_the_defense(exact: Setting, text: str) -> None:
    defense, plain = exact.build(text), exact.plain()
    others = Draws.of_attacker(torch.Generator().manual_seed(7), 4)
    with torch.no_grad():
        for variant in defense.variants():
            one, other = (variant(exact.encode, exact.pixels, draws) for draws in (ATTACKER, others))
            assert torch.equal(one, other) != variant.draws, variant.name
            assert variant.undefended == (variant.parameters == plain_variant(exact.model).parameters), variant.name
            assert torch.equal(one, plain) or not variant.undefended, variant.name
            assert variant.draws or variant.mean_over == 1, variant.name
    if isinstance(defense, DBD):
        assert {variant.mean_over for variant in defense.variants()} == {8}


@pytest.fixture(scope="module")
def variants(exact: Setting) -> dict[str, list[tuple[str, Tensor]]]:
    """The logits of every variant of every defense, and of the same with each setting changed, by its parameters."""
    some = Draws(ATTACKER.keys[:2])
    made: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
    with torch.no_grad():
        for text in EVERY:
            defense = exact.build(text)
            for what, each in (("", defense), *changed(defense)):
                for variant in each.variants():
                    key = json.dumps(variant.parameters, sort_keys=True)
                    logits = variant(exact.encode, exact.pixels[:2], some)
                    made[key].append((f"{variant.name} of {text}, {what}", logits))
    return made


def test_variants_of_equal_parameters_are_equal(variants: dict[str, list[tuple[str, Tensor]]]) -> None:
    """Else an attack is taken for that of another defense."""
    for first, *others in variants.values():
        for name, logits in others:
            assert torch.allclose(logits, first[1], rtol=0, atol=1e-9), f"{name} is not {first[0]}"


def test_methods_over_views_share_one_attack(exact: Setting) -> None:
    shared = defaultdict(set)
    for text in SOUND:
        for variant in exact.build(text).variants():
            shared[json.dumps(variant.parameters, sort_keys=True)].add(text.partition(":")[0])
    over = {text.partition(":")[0] for text in SOUND if isinstance(exact.build(text), MultiView)}
    assert len(over) >= 10 and over in shared.values()


# --- an attack without a budget ---------------------------------------------------------------------------------


def attack(setting: Setting, defense: TestTimeDefense, variant: Variant, most: int = 50) -> float:
    """The share of images that the defense classifies as it did, after so many steps on the margin with 64/255 or as
    soon as it is at chance."""
    x, labels = setting.pixels.clone(), defense(setting.pixels, IDS, False, setting.encode).argmax(1)
    generator, accuracy = torch.Generator().manual_seed(2), 1.0
    for step in range(1, most + 1):
        with torch.enable_grad():
            leaf = x.requires_grad_()
            logits = variant(setting.encode, leaf, Draws.of_attacker(generator, 4))
            true = logits.gather(1, labels[:, None])[:, 0]
            margin = logits.scatter(1, labels[:, None], -torch.inf).amax(1) - true
            (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        x = x.detach() + (16 if step < 10 else 4) / 255 * gradient.sign()
        x = setting.pixels + (x - setting.pixels).clamp(-64 / 255, 64 / 255)
        x = x.clamp(0, 1)
        if step % 5 == 0:
            accuracy = float((defense(x, IDS, False, setting.encode).argmax(1) == labels).float().mean())
            if accuracy <= CHANCE:
                break
    return accuracy


@every
def test_an_attack_without_a_budget_brings_it_to_chance(single: Setting, text: str) -> None:
    """Through at least one of its variants; else what an attacker is told is masked."""
    defense, tried = single.build(text), {}
    for variant in defense.variants():
        tried[variant.name] = attack(single, defense, variant)
        if tried[variant.name] <= CHANCE:
            return
    pytest.fail(f"accuracy after attacks through its variants: {tried}")
