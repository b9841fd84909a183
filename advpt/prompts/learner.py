"""Learnable prompts of a frozen CLIP: context vectors in the text, tokens in the image, or both.

Layout ``text``: ``[start, v1 .. vM, class tokens, ".", end]`` for position ``end``; the context is cut in two halves
around the class name for ``middle``, and follows it for ``front`` (Zhou et al., IJCV 2022).
Shared by all classes, or one context per class (CSC).

The other layouts, with prompts of J layers (J counts the input layer):

=============  ==================  ==================  ==================  ==================
layout         text, input         text, deeper        image, input        image, deeper
=============  ==================  ==================  ==================  ==================
text_deep      learned             learned             --                  --
visual         --                  --                  learned             learned
independent    learned             learned             learned             learned
t2v            learned             learned             linear(text)        linear(text)
v2t            learned             linear(image)       linear(text)        learned
=============  ==================  ==================  ==================  ==================

``t2v`` is MaPLe's coupling (Khattak et al., CVPR 2023), ``v2t`` FAP's (Zhou et al., NeurIPS 2024). In
them N_CTX says how many of the words of CTX_INIT are learned; the words behind stay as they are, so that ``a photo of
a`` with 2 vectors starts as the hand-written prompt.

With EXPERTS, the deeper prompts of ``visual`` and ``independent`` are no vectors but mixtures of vectors, chosen by a
router (:mod:`advpt.backbones.mixture`; TAME's V and VLI).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.backbones.backbone import no_tokens
from advpt.backbones.card import Card
from advpt.backbones.mixture import LEARNED, RAW_ONE, Mixture, Visual, VisualMixture
from advpt.backbones.text_encoder import PromptBatch, TextEncoder
from advpt.data import listing
from advpt.errors import PromptError
from advpt.prompts.classifier import Classifier
from advpt.settings import COUPLED, ContextSettings

INIT_STD = 0.02
WITH_VISUAL = ("visual", "independent", *COUPLED)


@dataclass(frozen=True)
class PromptState:
    """Prompts as tensors, ready for the two encoders.

    text:   the prompts of all classes; None in layout ``visual``, whose text is the hand-written prompt.
    visual: ``[J, n, D_v]`` float32 tokens of the image tower's first J blocks, or what makes them; None where it has
            none.

    With a leading dimension S these are the prompts of S samples.
    """

    text: PromptBatch | None
    visual: Visual | None = None


def prompt_tensors(state: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The learned tensors of a state dict by their plain names: ``module.`` (of DataParallel) and ``prompt_learner.``
    in front are taken away, CoOp's ``token_prefix`` and ``token_suffix`` left out: they are made of the class names.

    Raises:
        PromptError: two names become the same.
    """
    named: dict[str, Any] = {}
    for key, value in state.items():
        name = re.sub(r"^((module|prompt_learner)\.)+", "", str(key))
        if name in named:
            raise PromptError(f"{source} holds {name!r} twice, once as {key!r}; expected one of them")
        named[name] = value
    return {name: value for name, value in named.items() if name not in ("token_prefix", "token_suffix")}


def check_layout(settings: ContextSettings, card: Card, name: str) -> None:
    """Refuse prompts that this model cannot have.

    Raises:
        PromptError: visual prompts where an image has no tokens, more layers than the towers have, or a router that
            reads a first token that a tower does not have.
    """
    depths = []
    if settings.layout in WITH_VISUAL:
        if not card.image.prompts:
            raise PromptError(f"LAYOUT {settings.layout}: {no_tokens(name, card.image)}")
        depths.append(("DEPTH_VISION", settings.depth_vision, card.image.blocks or 0))
    if settings.layout not in ("text", "visual"):
        depths.append(("DEPTH_TEXT", settings.depth_text, card.text.blocks))
    for leaf, depth, blocks in depths:
        if depth > blocks:
            raise PromptError(f"{leaf} is {depth}, and {name} has {blocks} blocks; set at most {leaf} {blocks}")
    if settings.experts and settings.router != "token_mean":
        image = "" if card.image.kind == "vit" or card.image.pool == "class" else "images have no class token"
        text = "texts have no start token" if settings.layout == "independent" and not card.text.start else ""
        if missing := " and ".join(filter(None, (image, text))):
            raise PromptError(
                f"ROUTER {settings.router} reads the first token, and {name}'s {missing}; use ROUTER token_mean"
            )


class PromptLearner(nn.Module):
    """Context ``ctx``: ``[M, d]`` (shared) or ``[K, M, d]`` (CSC), and by layout ``ctx_deep [J - 1, M, d]``, ``visual
    [n, D_v]``, ``visual_deep [J - 1, n, D_v]`` and the linear maps ``couple_*``; in the place of ``ctx_deep`` and
    ``visual_deep`` a mixture's tensors, ``ctx_experts`` and so on. Float32 master weights.

    Everything that depends on the class names is rebuilt from them and never saved.

    Args:
        encoder: the frozen text tower whose token table and width are used.
        classnames: K names; underscores are read as spaces.
        settings: M, CSC, initial words, position, layout.
        generator: source of the random initial values (normal, standard deviation 0.02; linear maps as
            ``torch.nn.Linear``, those of deeper layers all the same; a mixture's base is the mean of its experts, its
            temperature and residual scale are 1).
        card: of the whole CLIP, for layouts other than ``text``.

    Raises:
        PromptError: when the longest prompt has more tokens than CLIP reads (it says how many vectors fit), or when
            this CLIP cannot have prompts of this layout.
    """

    ctx: nn.Parameter
    start: Tensor
    fixed: Tensor
    class_rows: Tensor
    eos: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        classnames: Sequence[str],
        settings: ContextSettings,
        generator: torch.Generator | None = None,
        card: Card | None = None,
    ) -> None:
        super().__init__()
        if not classnames:
            raise PromptError("a prompt needs at least one class name, and the list is empty")
        self.settings, self.layout = settings, settings.layout
        self.csc, self.position, self.classnames = settings.csc, settings.position, tuple(classnames)
        self.n_ctx = 0
        if self.layout != "visual":
            self._build_text(encoder, generator)
        if self.layout != "text":
            if card is None:
                raise PromptError(f"LAYOUT {self.layout} needs to know the size of both towers of CLIP")
            check_layout(settings, card, "this CLIP")
            self._build_other(encoder.width, card.image.width or 0, generator)

    def _build_text(self, encoder: TextEncoder, generator: torch.Generator | None) -> None:
        settings, names = self.settings, [name.replace("_", " ") for name in self.classnames]
        tokenizer, start = encoder.tokenizer, len(encoder.card.start)
        words = settings.ctx_init.replace("_", " ").strip()
        init = tokenizer.pieces(words) if words else []
        fixed: list[int] = []
        if init and self.layout != "text":
            init, fixed = init[: settings.n_ctx], init[settings.n_ctx :]
            if len(init) < settings.n_ctx:
                raise PromptError(
                    f"CTX_INIT {words!r} has {len(init)} tokens, and N_CTX asks for {settings.n_ctx}; give more words, "
                    "fewer vectors, or CTX_INIT '' for a random start"
                )
        self.n_ctx = len(init) or settings.n_ctx
        tokens = [tokenizer.pieces(f"{name}.") for name in names]
        longest = max(range(len(tokens)), key=lambda i: len(tokens[i]))
        room = encoder.context_length - tokenizer.frame - len(fixed) - len(tokens[longest])
        if self.n_ctx > room:
            raise PromptError(
                f"{self.n_ctx} context vectors do not fit: CLIP reads {encoder.context_length} tokens, and the longest "
                f"class name ({names[longest]!r}) with full stop, start and end takes "
                f"{len(tokens[longest]) + tokenizer.frame}. "
                f"At most {max(0, room)} fit: set N_CTX {max(0, room)} or shorten the name"
            )
        self.name_lengths = [len(tokenizer.class_pieces(name)) for name in self.classnames]

        with torch.no_grad():
            device = encoder.device
            padded = tokenizer.batch([f"{name}." for name in names]).to(device)
            rows = encoder.embed(padded)  # start, name, ".", end, padding
            suffix_length = max(len(t) for t in tokens) + 1
            behind = encoder.embed(torch.tensor(fixed, dtype=torch.int64, device=device))
            self.register_buffer("start", rows[0, :start].clone(), persistent=False)
            self.register_buffer("fixed", behind.clone(), persistent=False)
            self.register_buffer("class_rows", rows[:, start : start + suffix_length].clone(), persistent=False)
            self.eos = torch.tensor([len(t) for t in tokens])  # stays on the CPU, where the encoder reads it
            if init:
                context = encoder.embed(torch.tensor(init, device=device)).clone()
                context = context.expand(len(names), -1, -1).clone() if self.csc else context
            else:
                shape = ((len(names),) if self.csc else ()) + (self.n_ctx, encoder.width)
                context = torch.randn(shape, generator=generator).to(device) * INIT_STD
        self.ctx = nn.Parameter(context.float())

    def _build_other(self, text: int, vision: int, generator: torch.Generator | None) -> None:
        """Deep text prompts, visual prompts and linear maps between towers of widths ``text`` and ``vision``."""
        s, layout = self.settings, self.layout
        deep_text, deep_vision = s.depth_text - 1, s.depth_vision - 1

        def tokens(name: str, *shape: int) -> None:
            if 0 not in shape:
                setattr(self, name, nn.Parameter(INIT_STD * torch.randn(shape, generator=generator)))

        def linear(name: str, layers: int, inside: int, outside: int) -> None:
            """``layers`` equal maps, as ``torch.nn.Linear`` starts: uniform within 1 / sqrt(width)."""
            if layers:
                both = (2 * torch.rand(outside, inside + 1, generator=generator) - 1) / inside**0.5
                setattr(self, f"{name}_weight", nn.Parameter(both[:, :-1].repeat(layers, 1, 1)))
                setattr(self, f"{name}_bias", nn.Parameter(both[:, -1].repeat(layers, 1)))

        def mixture(name: str, layers: int, n: int, width: int) -> None:
            experts = INIT_STD * torch.randn((layers, s.experts, n, width), generator=generator)
            gate = (2 * torch.rand(layers, s.experts, width + 1, generator=generator) - 1) / width**0.5
            ones = torch.full((2, layers), RAW_ONE)
            for part, value in zip(LEARNED, (experts, experts.mean(1), gate[..., :-1], gate[..., -1], *ones)):
                setattr(self, f"{name}_{part}", nn.Parameter(value.clone()))

        def deeper(name: str, layers: int, n: int, width: int) -> None:
            if s.experts and layers:
                mixture(name, layers, n, width)
            else:
                tokens(f"{name}_deep", layers, n, width)

        if layout in ("text_deep", "independent", "t2v"):
            deeper("ctx", deep_text, s.n_ctx, text)
        if layout in ("visual", "independent"):
            tokens("visual", s.n_vision, vision)
        if layout in ("visual", "independent", "v2t"):
            deeper("visual", deep_vision, s.n_vision, vision)
        if layout in COUPLED:
            maps = 1 if s.shared_coupling and deep_vision else deep_vision
            linear("couple_input", 1, text, vision)
            linear("couple_deep", maps, *((text, vision) if layout == "t2v" else (vision, text)))

    def forward(self, values: Mapping[str, Tensor] | None = None) -> PromptState:
        """The prompts as they are now.

        Args:
            values: tensors in the place of the parameters, by name. With a leading dimension S in every one of them the
                state is that of S samples (position ``end`` only).
        """
        at = dict(self.named_parameters()) if values is None else values
        deep: Tensor | None = at.get("ctx_deep")
        visual: Visual | None = None
        mixed = {name: self._mixture(at, name) for name in ("ctx", "visual")}
        if mixed["visual"] is not None:
            visual = VisualMixture(at["visual"], mixed["visual"])
        elif self.layout in ("visual", "independent"):
            visual = _stack(at["visual"], at.get("visual_deep"))
        elif self.layout == "t2v":
            below = _linear(at, "couple_deep", deep) if deep is not None else None
            visual = _stack(_linear(at, "couple_input", at["ctx"].unsqueeze(-3)).squeeze(-3), below)
        elif self.layout == "v2t":
            below = at.get("visual_deep")
            deep = _linear(at, "couple_deep", below) if below is not None else None
            visual = _stack(_linear(at, "couple_input", at["ctx"].unsqueeze(-3)).squeeze(-3), below)
        text = None if self.layout == "visual" else self.prompts_of(at["ctx"], mixed["ctx"] or deep)
        return PromptState(text, visual)

    def _mixture(self, at: Mapping[str, Tensor], name: str) -> Mixture | None:
        """The mixture of the deeper prompts of text (``ctx``) or image (``visual``); None where there is none."""
        if f"{name}_experts" not in at:
            return None
        experts, base, weight, bias, tau, alpha = (at[f"{name}_{part}"] for part in LEARNED)
        return Mixture(experts, base, weight, bias, tau, alpha, self.settings.router)

    @torch.no_grad()
    def classifier(self, encoder: TextEncoder, scale: float, fixed: Tensor) -> Classifier:
        """The classifier of the current prompts.

        Args:
            encoder: the text tower. scale: the logit scale.
            fixed: ``[K, L]`` of unit length, text features of layout ``visual``.
        """
        state = self()
        features = F.normalize(encoder(state.text), dim=-1) if state.text else fixed
        visual = state.visual.detach().clone() if isinstance(state.visual, VisualMixture) else state.visual
        return Classifier(features, scale, visual=visual)

    def prompts_of(self, ctx: Tensor, deep: Tensor | Mixture | None) -> PromptBatch:
        """The prompts of all classes, sharing as long a prefix as their layout allows."""
        k, m = len(self.classnames), self.n_ctx
        if self.position == "end":
            lead = ctx.shape[: -3 if self.csc else -2]
            start, fixed = (part.expand(*lead, -1, -1) for part in (self.start, self.fixed))
            if not self.csc:
                return PromptBatch(torch.cat([start, ctx, fixed], -2), self.class_rows, self.eos, deep)
            suffix = torch.cat([ctx, *(part.expand(*lead, k, -1, -1) for part in (self.fixed, self.class_rows))], -2)
            return PromptBatch(self.start, suffix, self.eos + m + len(self.fixed), deep)
        context = ctx if self.csc else ctx.expand(k, -1, -1)
        before = m // 2 if self.position == "middle" else 0
        suffix = torch.stack(
            [
                torch.cat([c[:before], rows[:n], c[before:], rows[n:]])
                for c, rows, n in zip(context, self.class_rows, self.name_lengths)
            ]
        )
        if self.csc or not before:
            return PromptBatch(self.start, suffix, self.eos + m)
        prefix = torch.cat([self.start, ctx[:before]])
        return PromptBatch(prefix, suffix[:, before:], self.eos + m - before)

    def load_context(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load the prompts of a state dict; CoOp's has ``ctx`` (its ``token_prefix`` and ``token_suffix`` are not
        needed). Nothing is changed unless everything fits.

        Raises:
            PromptError: a tensor is missing or of another shape, or a class-specific one is for another class list.
        """
        state = prompt_tensors(state, source)
        parameters = dict(self.named_parameters())
        for name, wanted in parameters.items():
            if name not in state:
                what = {"ctx": "context vectors", "meta_net": "meta net (CoCoOp's)"}.get(
                    name.partition(".")[0], f"prompts of layout {self.layout}"
                )
                raise PromptError(
                    f"{source} holds no {what} ({name!r}); found: {', '.join(sorted(state)) or 'nothing'}"
                )
            loaded = state[name]
            if loaded.shape != wanted.shape:
                why = ""
                if name == "ctx" and loaded.dim() == 3:
                    why = "; it is class-specific (CSC), so it fits only the class list it was tuned on"
                what = "context" if name == "ctx" else name
                kind = " ([classes,] vectors, width)" if name == "ctx" else ""
                raise PromptError(
                    f"{source} holds {what} of shape {list(loaded.shape)}, this run has {list(wanted.shape)}{kind}"
                    f"{why}. Use the N_CTX, CSC and backbone that it was tuned with"
                    + (", and its LAYOUT and depths" if self.layout != "text" else "")
                )
        if more := sorted(state.keys() - parameters.keys()):
            raise PromptError(
                f"{source} also holds {listing.some(more, 8)}, which LAYOUT {self.layout} has "
                "no place for, and without which it is another prompt; use the trainer, LAYOUT and depths that it was "
                "tuned with"
            )
        with torch.no_grad():
            for name, wanted in parameters.items():
                wanted.copy_(state[name].float())


def _stack(first: Tensor, deeper: Tensor | None) -> Tensor:
    """``[J, n, D]`` of the input layer's ``[n, D]`` and those below ``[J - 1, n, D]``."""
    first = first.unsqueeze(-3)
    return first if deeper is None else torch.cat([first, deeper], -3)


def _linear(at: Mapping[str, Tensor], name: str, tokens: Tensor) -> Tensor:
    """``tokens [layers, n, inside]`` through one linear map for each layer, or one for all."""
    return tokens @ at[f"{name}_weight"].transpose(-1, -2) + at[f"{name}_bias"].unsqueeze(-2)
