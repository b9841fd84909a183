"""The model object: answers, gradients, defenses, devices, and what is said of mistakes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import advpt
from advpt.backbones.backbone import Backbone
from advpt.data.images import Preprocessing
from advpt.defenses.base import DEFENSES
from advpt.errors import AdvPTError, ConfigError, DataError
from advpt.evaluation.saved_run import SavedModel
from advpt.prompts.classifier import from_templates
from advpt.prompts.conditional import ConditionalLearner
from advpt.prompts.learner import PromptLearner
from advpt.prompts.linear import LinearClassifier
from advpt.settings import ContextSettings
from advpt.test_time.base import TEST_TIME
from advpt.test_time.spec import WITH_A_RUN

NAMES = ("red_fox", "owl", "sea")
CONTEXT = ContextSettings(2, False, "", "end", "fp32")
VISUAL = dataclasses.replace(CONTEXT, layout="independent", n_vision=2, depth_text=2, depth_vision=2)
INPUT = ("rescale", "noise", "low-pass", "super:advpt", "noise+rescale")
AT_TEST_TIME = sorted(set(TEST_TIME) - WITH_A_RUN.keys())
FEW = {"views": "views=4", "steps": "steps=1"}


def quick(name: str) -> str:
    """A defense at test time with few views and steps."""
    known = {field.name for field in dataclasses.fields(next(iter(TEST_TIME.get(name).profiles.values())))}
    return "/".join([name, *(text for key, text in FEW.items() if key in known and name != "clipure")])


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(clip: Backbone, kind: str = "hand") -> SavedModel:
    """A model of the tiny CLIP: hand-written prompts, a linear probe, or prompts of a kind, as a run leaves them."""
    hand = from_templates(clip.text, NAMES, ("a photo of a {}.",), clip.logit_scale)
    generator, learner, classifier = torch.Generator().manual_seed(0), None, hand
    if kind == "linear":
        weights = torch.randn(3, clip.card.embed_dim, generator=generator)
        classifier = LinearClassifier(weights, 1.0, torch.randn(3, generator=generator))
    elif kind != "hand":
        settings = {"text": CONTEXT, "conditional": CONTEXT, "visual": VISUAL}.get(
            kind, dataclasses.replace(VISUAL, experts=3)
        )
        made = ConditionalLearner if kind == "conditional" else PromptLearner
        learner = made(clip.text, NAMES, settings, generator, clip.card)
        classifier = learner.classifier(clip.text, clip.logit_scale, hand.features)
    pixels = Preprocessing(clip.card.image.size, "bicubic")
    return SavedModel(clip, classifier, NAMES, hand, ("a photo of a {}.",), pixels, learner)


KINDS = ("hand", "text", "linear", "conditional", "visual", "mixture")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradient_are_those_of_classifier_and_encoder(tiny_clip, pixels, kind):
    made = saved(tiny_clip, kind)
    model = advpt.Model(made)
    visual = made.classifier.visual
    at = pixels.clone().requires_grad_()
    expected = made.classifier.logits(
        tiny_clip.image.features(at, visual) if visual is not None else tiny_clip.image(at)
    )
    (gradient,) = torch.autograd.grad(expected[:, 0].sum(), at)
    ours = model(at)
    assert torch.equal(ours, expected) and ours.shape == (3, 3)
    assert torch.equal(torch.autograd.grad(ours[:, 0].sum(), at)[0], gradient) and gradient.abs().max() > 0
    assert torch.allclose(torch.cat([model(row[None]) for row in pixels]), ours, atol=2e-4)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert torch.equal(model.text_features, made.classifier.features) and model.logit_scale == made.classifier.scale
    assert torch.allclose(model.probabilities(pixels), expected.softmax(-1), atol=1e-5)


def test_what_it_is(tiny_clip):
    model = advpt.Model(saved(tiny_clip), defense="noise", test_time="mean/views=4")
    assert model.classnames == NAMES and model.preprocess is not None and model.device == torch.device("cpu")
    assert repr(model) == "Model(tiny, 3 classes, zero-shot, behind noise:uniform+mean:sound/views=4)"
    assert model.preprocess(Image.new("RGB", (40, 36))).shape == (3, 32, 32)
    assert model.train().training is False and not any(part.training for part in model.modules())
    assert model.draws and not advpt.Model(saved(tiny_clip)).draws
    assert "rescale" in repr(advpt.Model(saved(tiny_clip), test_time="rescale+tte"))


def test_predictions_of_files_and_pictures(tiny_clip, tmp_path):
    model = advpt.Model(saved(tiny_clip))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 36, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    of_file, of_picture = model.predict([tmp_path / "a.png", picture])
    label = int(model(model.preprocess(picture)[None]).argmax())
    assert (of_file.label, of_file.confidence) == (of_picture.label, of_picture.confidence)
    assert of_file.label == NAMES[label] and of_file.confidence > of_file.runner_up_confidence
    assert isinstance(of_file, advpt.Prediction) and model.predict(picture)[0].label == of_file.label
    with pytest.raises(DataError, match="b.png does not exist"):
        model.predict(tmp_path / "b.png")


def test_zero_shot():
    model = advpt.zero_shot("DemoCLIP", ["zero", "one"], template=["a photo of the digit {}.", "the number {}."])
    assert model.text_features.shape[0] == 2 and model.saved.templates[1] == "the number {}."
    assert torch.allclose(model.text_features.norm(dim=-1), torch.ones(2))
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 2)
    assert model.preprocessing.size == (32, 32)


# --- defenses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*INPUT, *AT_TEST_TIME])
def test_behind_a_defense_it_gives_the_same_each_time_and_whatever_stands_beside(tiny_clip, pixels, text):
    where = {"test_time": quick(text)} if text in AT_TEST_TIME else {"defense": text}
    model = advpt.Model(saved(tiny_clip, "text"), **where)
    if model.reader is not None and not model.reader.by_image:
        pytest.skip("its answer depends on the batch")
    once, state = model(pixels), torch.get_rng_state()
    assert torch.equal(model(pixels), once) and torch.equal(torch.get_rng_state(), state)
    alone = torch.cat([model(row[None]) for row in pixels.flip(0)]).flip(0)
    assert torch.allclose(alone, once, atol=5e-3), (alone, once)
    if model.draws:
        other = advpt.Model(saved(tiny_clip, "text"), **where, seed=1)(pixels)
        votes = model.reader is not None and model.reader.counts_votes  # which may well be the same
        assert votes or not torch.equal(other, once)
    changed = not torch.equal(once, advpt.Model(saved(tiny_clip, "text"))(pixels))
    assert changed or text in ("et3", "clipure")


@pytest.mark.parametrize("text", [*INPUT, *AT_TEST_TIME])
def test_behind_a_defense_pixels_have_gradients(tiny_clip, pixels, text):
    where = {"test_time": quick(text)} if text in AT_TEST_TIME else {"defense": text}
    model = advpt.Model(saved(tiny_clip, "text"), **where)
    ways = {"": model} | {each.name: model.through(each.name) for each in model.variants}
    assert (len(ways) > 1) == (text in AT_TEST_TIME)
    for name, forward in ways.items():
        at = pixels[:2].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(forward(at)[:, 0].sum(), at)
        assert gradient.isfinite().all() and gradient.abs().amax((1, 2, 3)).min() > 0, name
    if text in AT_TEST_TIME:  # a call follows the first
        first, call = (way(pixels.clone().requires_grad_()) for way in (ways[model.variants[0].name], model))
        assert torch.equal(first, call)


def test_each_variant_is_another_function(tiny_clip, pixels):
    model = advpt.Model(saved(tiny_clip, "text"), test_time="ttc")
    gradients = {}
    for each in model.variants:
        at = pixels.clone().requires_grad_()
        gradients[each.name] = torch.autograd.grad(model.through(each.name)(at)[:, 0].sum(), at)[0]
    assert len(gradients) == 5 and not torch.equal(gradients["smooth sign"], gradients["frozen delta"])
    assert not torch.equal(gradients["noise"], gradients["always weighted"])


def test_an_attackers_draws_are_new_in_every_pass(tiny_clip, pixels):
    model = advpt.Model(saved(tiny_clip), defense="noise")
    one, two = (model.through(attacker=seed) for seed in (0, 0))
    first = one(pixels)
    assert not torch.equal(one(pixels), first) and torch.equal(two(pixels), first)
    assert torch.equal(model.through()(pixels), model(pixels))


def test_a_chain_before_a_defense_at_test_time_may_stand_in_either(tiny_clip, pixels):
    both = advpt.Model(saved(tiny_clip), defense="low-pass", test_time="tte")
    one = advpt.Model(saved(tiny_clip), test_time="low-pass+tte")
    assert torch.equal(both(pixels), one(pixels))
    assert not torch.equal(one(pixels), advpt.Model(saved(tiny_clip), test_time="tte")(pixels))


# --- devices --------------------------------------------------------------------------------------------------------


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Those in a dataclass, at any depth; not those of modules."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from tensors(each, f"{name}.{key}")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_moved(tiny_clip, pixels, kind):
    made = saved(tiny_clip, kind)
    before = dict(tensors(made.classifier))
    assert {name: each.dtype for name, each in tensors(made.classifier.moved(Tensor.double))} == dict.fromkeys(
        before, torch.float64
    )
    model, moved = advpt.Model(made, defense="noise", test_time="tte"), list[Tensor]()
    logits, old = model(pixels), (model.chain, model.reader)

    def fn(tensor: Tensor) -> Tensor:
        moved.append(tensor.clone())
        return moved[-1]

    assert model._apply(fn) is model
    new = {each.data_ptr() for each in moved}
    where = [*tensors(model.classifier), *tensors(model.hand_written)]
    where += [*model.named_parameters(), *model.named_buffers(), *model.backbone.model.named_parameters()]
    assert [name for name, each in where if each.data_ptr() not in new] == []
    assert all(now is not then for now, then in zip((model.chain, model.reader), old))
    assert model.saved.classifier is model.classifier and torch.equal(model(pixels), logits)
    assert torch.equal(copy.deepcopy(model)(pixels), logits)


def test_another_precision_is_refused_and_nothing_has_changed(tiny_clip, pixels):
    model = advpt.Model(saved(tiny_clip))
    logits = model(pixels)
    for change in (model.half, model.double, lambda: model.to(torch.bfloat16)):
        with pytest.raises(ConfigError, match="computes in float32"):
            change()
    assert torch.equal(model(pixels), logits) and model.to("cpu") is model


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_pixels_of_another_kind_are_refused(tiny_clip, pixels):
    model = advpt.Model(saved(tiny_clip))
    for wrong in (pixels[0], pixels[:, :1], pixels[..., :16], pixels.double(), (255 * pixels).byte()):
        with pytest.raises(DataError, match=r"tiny reads float32 pixels \[b, 3, 32, 32\] in \[0, 1\], got torch"):
            model(wrong)
    for wrong in (255 * pixels, (pixels - 0.5) / 0.2, pixels.log() * torch.nan):
        with pytest.raises(DataError, match=r"expected \[0, 1\].*normalisation is inside"):
            model(wrong)
    with pytest.raises(DataError, match=r"pixels are on meta, the model is on cpu; give pixels.to\(model.device\)"):
        model(pixels.to("meta"))
    assert model(pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "DemoClap"}, "DemoClap"),
        ({"classnames": "zero"}, "list of at least one class name"),
        ({"classnames": []}, "list of at least one class name"),
        ({"template": "a photo"}, "has no {}"),
        ({"weigths": "a.pt"}, "zero_shot: unknown argument 'weigths'. Did you mean 'weights'"),
        ({"activation": "relu"}, "MODEL.ACTIVATION"),
        ({"compile": True}, "unknown argument 'compile'"),
        ({"weights": "/nowhere/a.pt"}, "/nowhere/a.pt"),
        ({"defense": "resale"}, "rescale"),
        ({"test_time": "tcc"}, "ttc"),
        ({"test_time": "tapt"}, "evaluate the run"),
        ({"defense": "noise", "test_time": "rescale+tte"}, "both name a defense of the input"),
    ],
)
def test_mistakes_end_in_a_sentence(arguments, message):
    with pytest.raises(AdvPTError, match=message):
        advpt.zero_shot(**({"name": "DemoCLIP", "classnames": ["zero"]} | arguments))


def test_a_variant_that_is_not_there(tiny_clip):
    with pytest.raises(ConfigError, match="no variants"):
        advpt.Model(saved(tiny_clip)).through("smooth sign")
    with pytest.raises(ConfigError, match="Did you mean 'smooth sign'"):
        advpt.Model(saved(tiny_clip), test_time="ttc").through("smooth sing")


def test_what_is_no_run(tmp_path):
    with pytest.raises(AdvPTError, match="nothing holds no model with its description: there is no such folder"):
        advpt.load(tmp_path / "nothing")
    for seed in (1, 2):
        (tmp_path / f"seed{seed}" / "prompt_learner").mkdir(parents=True)
        (tmp_path / f"seed{seed}" / "prompt_learner" / "prompt.json").write_text("{}")
    with pytest.raises(AdvPTError, match="runs below it: seed1, seed2"):
        advpt.load(tmp_path)


def test_every_defense_is_tried():
    assert {text.split("+")[0].split(":")[0] for text in INPUT} == {n for n in DEFENSES if n != "diffpure"}
