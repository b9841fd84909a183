"""Small models of every family, with random weights, and what their own code computes with prompts put in by hooks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.backbones import democlip, open_clip
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import Card
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.backbones.configs import card_of, read_open_clip
from advpt.backbones.tokenizers import Tokenizer
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from tests.helpers.open_clip import VIT, changed
from tests.helpers.prompts import BPE

TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
OWN_TEXT = {"hf_tokenizer_name": "a/b", "vocab_size": 300, "context_length": 40}
CONFIGS: dict[str, dict[str, Any]] = {
    "ViT": VIT,
    "ViT, quickgelu": changed(VIT, quick_gelu=True),
    "heads of 80": changed(VIT, vision={"width": 160, "head_width": 80}, text={"width": 160, "heads": 2}),
    "LayerScale": changed(VIT, vision={"ls_init_value": 0.3}, text={"ls_init_value": 0.3}),
    "mean of patches": changed(VIT, vision={"pool_type": "avg"}),
    "CLIPA": changed(
        VIT,
        vision={"pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True},
        text={**OWN_TEXT, "pool_type": "last", "no_causal_mask": True},
    ),
    "ResNet": changed(VIT, vision={"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 64}),
    "ConvNeXt": changed(
        VIT, vision={**TIMM, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
    ),
    "SigLIP": changed(
        VIT, vision=TIMM, embed_dim=64, custom_text=True, init_logit_bias=-10,
        text={**OWN_TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True, "norm_kwargs": {"eps": 1e-6},
              "act_kwargs": {"approximate": "tanh"}},
    ),
    "MobileCLIP": changed(VIT, vision={**TIMM, "timm_pool": "token", "timm_proj": None}, custom_text=True),
    "MobileCLIP-S": changed(
        VIT, vision={**TIMM, "timm_pool": "avg", "timm_proj": None}, custom_text=True, text={"no_causal_mask": True}
    ),
    "worldwide": changed(VIT, text={**OWN_TEXT, "pool_type": "eos", "heads": 4}),
}  # fmt: skip
OPENAI = {"OpenAI": Architecture(32, 32, 3, 128, 16, 77, 49408, 64, 4)}
NAMES = [*OPENAI, democlip.NAME, *CONFIGS]
WITHOUT_TOKENS = {"ResNet": "ResNet", "ConvNeXt": "ConvNeXt"}
SPECIALS = {  # of models whose texts are letters
    "CLIPA": {"start": (2,), "end": 0, "pad": 0},
    "SigLIP": {"start": (), "end": 1, "pad": 1},
    "worldwide": {"start": (0,), "end": 2, "pad": 1},
}


class Letters(Tokenizer):
    """A token for each letter."""

    def pieces(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def word(self, token: int) -> str:
        return chr(token)


def shake(model: nn.Module, seed: int = 1) -> nn.Module:
    """Weights, biases and norms that are all different from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name not in ("logit_scale", "logit_bias"):
                value.add_(
                    0.1 * torch.randn(value.shape, generator=generator) * value.std().nan_to_num(1).clamp(min=0.3)
                )
    return model


def card(name: str) -> Card:
    """Of a model of :data:`CONFIGS`."""
    made = card_of(name, read_open_clip({"model_cfg": CONFIGS[name]}, name))
    if name not in SPECIALS:
        return made
    return dataclasses.replace(made, text=dataclasses.replace(made.text, tokenizer="0" * 64, **SPECIALS[name]))


def make(name: str, seed: int = 0) -> Backbone:
    """The model of a name in :data:`NAMES`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == democlip.NAME:
            return backbone_of(name, democlip.load())
        if name in OPENAI:
            return backbone_of(name, shake(build(OPENAI[name])))
    return of_card(card(name), seed)


def of_card(what: Card, seed: int = 0, change: Callable[[nn.Module], nn.Module] = shake) -> Backbone:
    """A model of open_clip's classes, as it is built and then changed. Its texts are letters where they are not byte
    pairs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = change(open_clip.build(what)).state_dict()
    tokenizer = BPE if what.text.tokenizer == "bpe" else Letters(what.text)
    return open_clip.load(what, tensors, what.name, tokenizer=tokenizer)


def pixels(backbone: Backbone, n: int = 3) -> Tensor:
    return torch.rand(n, 3, *backbone.card.image.size, generator=torch.Generator().manual_seed(7))


@contextlib.contextmanager
def hooks(*each: Any) -> Iterator[None]:
    """Within the block these hooks are on; without PyTorch's fused kernel, which rounds in another way."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in each:
            hook.remove()


def own_image(backbone: Backbone, images: Tensor, visual: Tensor | None = None) -> Tensor:
    """Features of the model's own code; ``visual [J, n, D]`` put in by hooks, the tokens batch first or not."""
    image = backbone.require_image()
    normalised = (images - image.mean) / image.std
    if visual is None:
        with hooks():
            return backbone.model.encode_image(normalised)
    tower: Any = backbone.model.visual
    n, timm = visual.shape[1], backbone.card.image.kind == "timm"
    blocks = list(tower.trunk.blocks if timm else tower.transformer.resblocks)
    dim = 1 if backbone.card.config else 0  # of tokens, in blocks

    def tokens(layer: int, like: Tensor, dim: int) -> Tensor:
        shape = (like.shape[0], -1, -1) if dim == 1 else (-1, like.shape[1], -1)
        return visual[layer].unsqueeze(1 - dim).expand(shape)

    def replace(layer: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0].narrow(dim, 0, args[0].shape[dim] - n)
            return (torch.cat([x, tokens(layer, x, dim)], dim), *args[1:])

        return hook

    entry, last = (tower.trunk.norm_pre, tower.trunk.norm) if timm else (tower.ln_pre, tower.transformer)
    put = entry.register_forward_pre_hook(lambda _, args: (torch.cat([args[0], tokens(0, args[0], 1)], 1),))
    deeper = [blocks[i].register_forward_pre_hook(replace(i)) for i in range(1, len(visual))]
    drop = last.register_forward_hook(lambda _, args, out: out.narrow(dim, 0, out.shape[dim] - n))
    with hooks(put, drop, *deeper):
        return backbone.model.encode_image(normalised)


def own_text(
    backbone: Backbone, ids: Tensor, context: Tensor | None = None, at: Tensor | None = None,
    deep: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """Features of the model's own code.

    Args:
        ids: ``[K, context length]``. context: ``[K, M, d]`` that takes the positions ``at [K, M]``.
        deep: for each block from the second on, tokens ``[n, d]`` that take the positions behind the start.
    """
    tower: Any = getattr(backbone.model, "text", backbone.model)
    first, each = len(backbone.card.text.start), []
    dim = 1 if backbone.card.config else 0

    def put(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        out = out.clone()
        out[torch.arange(len(out))[:, None], at] = context
        return out

    def replace(tokens: Tensor) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0].transpose(0, 1) if dim == 0 else args[0]
            x = torch.cat([x[:, :first], tokens.expand(len(x), -1, -1), x[:, first + len(tokens) :]], 1)
            return (x.transpose(0, 1) if dim == 0 else x, *args[1:])

        return hook

    if context is not None:
        each.append(tower.token_embedding.register_forward_hook(put))
    each += [tower.transformer.resblocks[i].register_forward_pre_hook(replace(t)) for i, t in enumerate(deep, 1)]
    with hooks(*each):
        return backbone.model.encode_text(ids)


CLASSES = ["cat", "great_white_shark", "7-Eleven's (red)"]


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The distance of two results, relative to the second."""
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


def learner(
    backbone: Backbone, *, n_ctx: int = 4, csc: bool = False, position: str = "end", depth: int = 1
) -> PromptLearner:
    """Prompts of :data:`CLASSES` in the text, far from where they start."""
    settings = ContextSettings(n_ctx, csc, "", position, "fp32")
    settings = dataclasses.replace(settings, layout="text_deep" if depth > 1 else "text", depth_text=depth)
    made = PromptLearner(backbone.text, CLASSES, settings, torch.Generator().manual_seed(3), backbone.card)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(10)
    return made


def by_hooks(backbone: Backbone, prompts: PromptLearner) -> Tensor:
    """The features of the learner's prompts, as the model's own code computes them."""
    tokenizer, m, card = backbone.tokenizer, prompts.n_ctx, backbone.card.text
    s, rows, places = len(card.start), [], []
    for name in CLASSES:
        name = name.replace("_", " ")
        whole, alone = tokenizer.pieces(f"{name}."), len(tokenizer.pieces(name))
        before, cut = {"end": (m, 0), "middle": (m // 2, alone), "front": (0, alone)}[prompts.position]
        places.append([*range(s, s + before), *range(s + before + cut, s + cut + m)])
        row = [*card.start, *[5] * before, *whole[:cut], *[5] * (m - before), *whole[cut:], card.end]
        rows.append([*row, *[card.pad] * (card.context - len(row))])
    context = prompts.ctx if prompts.csc else prompts.ctx.expand(len(CLASSES), -1, -1)
    deep = getattr(prompts, "ctx_deep", ())
    return own_text(backbone, torch.tensor(rows), context, torch.tensor(places), list(deep))


def compare(backbone: Backbone, prompts: PromptLearner, within: Sequence[float] = (1e-5, 5e-5)) -> None:
    """Features and gradients of the learner's prompts are those of the model's own code."""
    ours, theirs = backbone.text(prompts().text), by_hooks(backbone, prompts)
    assert apart(ours, theirs) <= within[0]
    targets, parameters = torch.arange(len(CLASSES)), list(prompts.parameters())
    gradients = [
        torch.autograd.grad(F.cross_entropy(20 * F.normalize(f, dim=-1) @ _direction(f).T, targets), parameters)
        for f in (ours, theirs)
    ]
    for one, other in zip(*gradients):
        assert apart(one, other) <= within[1]


def compare_images(backbone: Backbone, layers: int, n: int, images: int = 3) -> None:
    """Features and gradients of visual prompts ``[layers, n, D]`` are those of the model's own code."""
    x = pixels(backbone, images)
    visual = 0.5 * torch.randn(layers, n, backbone.card.image.width or 0, generator=torch.Generator().manual_seed(n))
    visual.requires_grad_()
    ours, theirs = backbone.require_image().features(x, visual), own_image(backbone, x, visual)
    assert apart(ours, theirs) <= 1e-6
    one, other = (torch.autograd.grad(f.square().sum(), visual)[0] for f in (ours, theirs))
    assert apart(one, other) <= 1e-5
    assert apart(ours, backbone.require_image()(x)) > 1e-3


def _direction(features: Tensor) -> Tensor:
    return F.normalize(torch.randn(features.shape, generator=torch.Generator().manual_seed(4)), dim=-1)
