"""A context that images move: against CoCoOp's formulas, written out over all 77 positions of OpenAI's own model."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.clip import Backbone
from advpt.backbones.shim import import_clip
from advpt.backbones.text_encoder import TextEncoder
from advpt.errors import PromptError
from advpt.prompts import conditional
from advpt.prompts.classifier import Classifier
from advpt.prompts.conditional import ConditionalClassifier, ConditionalLearner, logits_of_images
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from tests.helpers.prompts import ODD_NAMES, run_all_positions

SETTINGS = ContextSettings(4, False, "a photo of a", "end", "fp32")
SCALE = 20.0


@pytest.fixture
def parts(tiny_clip: Backbone) -> tuple[TextEncoder, ConditionalLearner]:
    """A learner whose meta net moves the context as far as it is long."""
    encoder = tiny_clip.text
    learner = ConditionalLearner(encoder, ODD_NAMES, SETTINGS, torch.Generator().manual_seed(0), tiny_clip.card)
    with torch.no_grad():
        learner.meta_net.linear1.weight.mul_(3)
    return encoder, learner


def classifier(encoder: TextEncoder, learner: ConditionalLearner, values: dict[str, Tensor] | None = None):
    values = values or {name: p.detach().clone() for name, p in learner.named_parameters()}
    with torch.no_grad():
        unmoved = F.normalize(encoder(learner().text), dim=-1)
    return ConditionalClassifier(unmoved, SCALE, encoder, learner, values)


def cocoop(model, state: dict[str, Tensor], names: list[str], embeddings: Tensor) -> Tensor:
    """CoCoOp's CustomCLIP, image by image, with a parameter for each name of its checkpoints."""
    clip = import_clip()
    tokens = torch.cat([clip.tokenize(f"a photo of a {name.replace('_', ' ')}.") for name in names])
    embedded = model.token_embedding(tokens)
    features = embeddings / embeddings.norm(dim=-1, keepdim=True)
    rows = []
    for image in features:
        hidden = torch.relu(state["meta_net.linear1.weight"] @ image + state["meta_net.linear1.bias"])
        bias = state["meta_net.linear2.weight"] @ hidden + state["meta_net.linear2.bias"]
        context = (state["ctx"] + bias[None]).expand(len(names), -1, -1)
        text = run_all_positions(model, torch.cat([embedded[:, :1], context, embedded[:, 5:]], 1), tokens)
        rows.append(SCALE * image @ (text / text.norm(dim=-1, keepdim=True)).T)
    return torch.stack(rows)


def close(one: Tensor, other: Tensor) -> bool:
    """Within 1e-5 of the largest value."""
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def images(n: int = 5, width: int = 64) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(7))


def test_logits_loss_and_gradients_are_cocoops(tiny_clip: Backbone, parts) -> None:
    encoder, learner = parts
    embeddings, labels = images(), torch.arange(5) % 3
    text = encoder(learner.of_images(F.normalize(embeddings, dim=-1)))
    logits = logits_of_images(embeddings, text, SCALE)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    state = {name: p.detach().clone().requires_grad_() for name, p in learner.named_parameters()}
    expected = cocoop(tiny_clip.model, state, ODD_NAMES, embeddings)
    wanted = F.cross_entropy(expected, labels)
    wanted.backward()
    assert close(logits, expected) and close(loss, wanted)
    assert set(state) == {"ctx", *(f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias"))}
    for name, p in learner.named_parameters():
        assert close(p.grad, state[name].grad) and float(p.grad.abs().max()) > 1e-4, name
    assert all(p.grad is None for p in tiny_clip.model.parameters())
    apart = F.normalize(text.detach(), dim=-1).std(0).max()
    other = encoder(learner.of_images(F.normalize(embeddings.flip(0), dim=-1))).flip(0)
    assert float(apart) > 1e-2 and close(text, other), "an image moves its own prompts alone"


def test_the_classifier_gives_cocoops_logits_and_gradient_to_the_pixels(tiny_clip: Backbone, parts) -> None:
    """What an adaptive attacker follows: pixels, image feature, meta net, context, text features, cosine."""
    encoder, learner = parts
    made, encode = classifier(encoder, learner), tiny_clip.require_image()
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 1])

    def gradient(logits_of) -> tuple[Tensor, Tensor]:
        x = pixels.clone().requires_grad_()
        logits = logits_of(encode(x))
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
        return logits.detach(), slope

    logits, ours = gradient(made.logits)
    expected, theirs = gradient(lambda e: cocoop(tiny_clip.model, made.values, ODD_NAMES, e))
    assert close(logits, expected)
    assert close(ours, theirs)
    _, fixed = gradient(lambda e: logits_of_images(e, encoder(learner.of_images(
        F.normalize(e, dim=-1).detach(), made.values)), SCALE))  # fmt: skip
    assert float((ours - fixed).abs().max()) > 0.01 * float(ours.abs().max()), "the meta net counts"
    assert all(p.grad is None for p in learner.parameters())


def test_chunks_change_nothing_but_memory(parts, monkeypatch) -> None:
    encoder, learner = parts
    made, embeddings = classifier(encoder, learner), images(7)
    passes = []
    real = ConditionalLearner.of_images

    def counted(self, some, values=None):
        passes.append(len(some))
        return real(self, some, values)

    monkeypatch.setattr(ConditionalLearner, "of_images", counted)

    def run() -> tuple[Tensor, Tensor]:
        x = embeddings.clone().requires_grad_()
        logits = made.logits(x)
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, torch.arange(7)), x)
        return logits.detach(), slope

    whole, gradient = run()
    assert passes == [7]
    monkeypatch.setattr(conditional, "TEXTS_AT_ONCE", 3 * len(ODD_NAMES) + 1)
    logits, other = run()
    assert passes[1:4] == [3, 3, 1] and sorted(passes[4:]) == [1, 3, 3], "computed once more on the way back"
    assert close(logits, whole) and close(other, gradient)
    monkeypatch.setattr(conditional, "TEXTS_AT_ONCE", 1)  # more classes than that: an image at a time
    del passes[:]
    with torch.no_grad():
        assert close(made.logits(embeddings), whole) and passes == [1] * 7
    assert made.logits(embeddings[:0]).shape == (0, len(ODD_NAMES))


def test_the_digest_holds_context_meta_net_prompts_and_scale(tiny_clip: Backbone, parts) -> None:
    encoder, learner = parts
    made = classifier(encoder, learner)
    digests = [made.digest, Classifier(made.features, SCALE).digest]
    for name, value in made.values.items():
        digests.append(classifier(encoder, learner, made.values | {name: value + 1e-3}).digest)
    other = ConditionalLearner(encoder, ODD_NAMES[::-1], SETTINGS, None, tiny_clip.card)
    digests.append(ConditionalClassifier(made.features, SCALE, encoder, other, made.values).digest)
    digests.append(ConditionalClassifier(made.features, 2 * SCALE, encoder, learner, made.values).digest)
    digests.append(ConditionalClassifier(made.features + 1e-3, SCALE, encoder, learner, made.values).digest)
    assert len(set(digests)) == len(digests) == 2 + 5 + 3
    assert classifier(encoder, learner).digest == made.digest
    logits = made.logits(images())
    with torch.no_grad():
        learner.ctx.add_(1)
    assert torch.equal(made.logits(images()), logits), "values, not parameters"
    assert torch.equal(made.logits(images()), pickle.loads(pickle.dumps(made)).logits(images())), (
        "values, not parameters"
    )


def test_the_start_depends_on_the_generator_alone(tiny_clip: Backbone) -> None:
    encoder = tiny_clip.text

    def make(seed: int, **more) -> ConditionalLearner:
        settings = ContextSettings(3, False, "", "end", "fp32")
        return ConditionalLearner(encoder, ["cat"], settings, torch.Generator().manual_seed(seed), tiny_clip.card)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = make(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    for name, value in make(1).named_parameters():
        assert torch.equal(value, one.get_parameter(name)) and not torch.equal(value, make(2).get_parameter(name))
    first, second = one.meta_net.linear1, one.meta_net.linear2
    assert (first.weight.shape, second.weight.shape) == ((4, 64), (64, 4))
    for layer in (first, second):
        bound = layer.in_features**-0.5
        assert 0.5 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_a_meta_net_that_gives_nothing_is_coop(tiny_clip: Backbone, parts) -> None:
    encoder, learner = parts
    with torch.no_grad():
        learner.meta_net.linear2.weight.zero_()
        learner.meta_net.linear2.bias.zero_()
        made = classifier(encoder, learner)
        assert close(made.logits(images()), Classifier(made.features, SCALE).logits(images()))


def test_what_it_cannot_be_is_refused(tiny_clip: Backbone) -> None:
    encoder = tiny_clip.text
    for change in ({"csc": True}, {"position": "middle"}):
        with pytest.raises(PromptError, match="shared by all classes and stands before their names"):
            settings = ContextSettings(**{"n_ctx": 2, "csc": False, "ctx_init": "", "position": "end",
                                          "precision": "fp32"} | change)  # fmt: skip
            ConditionalLearner(encoder, ["cat"], settings, None, tiny_clip.card)
    with pytest.raises(PromptError, match="needs to know their width"):
        ConditionalLearner(encoder, ["cat"], SETTINGS)


def test_checkpoints_of_other_kinds_are_told_apart(tiny_clip: Backbone, parts) -> None:
    """CoCoOp's own, in half precision and under its whole model's names; CoOp's; and CoCoOp's for CoOp."""
    encoder, learner = parts
    state = {f"prompt_learner.{name}": p.detach().half() for name, p in learner.named_parameters()}
    state |= {
        "prompt_learner.token_prefix": torch.zeros(9, 1, 64),
        "prompt_learner.token_suffix": torch.zeros(9, 72, 64),
    }
    again = ConditionalLearner(encoder, ["cat"], SETTINGS, None, tiny_clip.card)
    again.load_context(state, "there")
    for name, value in again.named_parameters():
        assert torch.equal(value, learner.get_parameter(name).half().float())
    with pytest.raises(PromptError, match=r"there holds no meta net \(CoCoOp's\) \('meta_net.linear1.weight'\)"):
        again.load_context({"ctx": learner.ctx}, "there")
    plain = PromptLearner(encoder, ["cat"], SETTINGS)
    with pytest.raises(PromptError, match=r"also holds meta_net.linear1.bias.*use the trainer, LAYOUT"):
        plain.load_context(state, "there")
    state["prompt_learner.meta_net.linear1.weight"] = torch.zeros(32, 512)
    with pytest.raises(PromptError, match=r"meta_net.linear1.weight of shape \[32, 512\], this run has \[4, 64\]"):
        again.load_context(state, "there")
