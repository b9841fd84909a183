"""Learnable context vectors in front of, between or behind the class names (CoOp's and AdvPT's prompts).

Layout ``text``: ``[start, v1 .. vM, class tokens, ".", end]`` for position ``end``; the context is cut in two halves
around the class name for ``middle``, and follows it for ``front`` (Zhou et al., IJCV 2022, eq. 2 and section 3.2).
Shared by all classes, or one context per class (CSC).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from advpt.errors import PromptError
from advpt.prompts.text_encoder import PromptBatch, TextEncoder, tokenize, word_tokens
from advpt.settings import ContextSettings

INIT_STD = 0.02


class PromptLearner(nn.Module):
    """Context ``ctx``: ``[M, d]`` (shared) or ``[K, M, d]`` (CSC), float32 master weights.

    Everything that depends on the class names is rebuilt from them and never saved.

    Args:
        encoder: the frozen text tower whose token table and width are used.
        classnames: K names; underscores are read as spaces.
        settings: M, CSC, initial words, position.
        generator: source of the random initial context (normal, standard deviation 0.02).

    Raises:
        PromptError: when the longest prompt has more tokens than CLIP reads; it says how many vectors fit.
    """

    ctx: nn.Parameter
    start: Tensor
    class_rows: Tensor
    eos: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        classnames: Sequence[str],
        settings: ContextSettings,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not classnames:
            raise PromptError("a prompt needs at least one class name, and the list is empty")
        names = [name.replace("_", " ") for name in classnames]
        words = settings.ctx_init.replace("_", " ").strip()
        init = word_tokens(words) if words else []
        self.n_ctx = len(init) or settings.n_ctx
        self.csc, self.position, self.classnames = settings.csc, settings.position, tuple(classnames)
        tokens = [word_tokens(f"{name}.") for name in names]
        longest = max(range(len(tokens)), key=lambda i: len(tokens[i]))
        room = encoder.context_length - 2 - len(tokens[longest])
        if self.n_ctx > room:
            raise PromptError(
                f"{self.n_ctx} context vectors do not fit: CLIP reads {encoder.context_length} tokens, and the longest "
                f"class name ({names[longest]!r}) with full stop, start and end takes {len(tokens[longest]) + 2}. "
                f"At most {max(0, room)} fit: set N_CTX {max(0, room)} or shorten the name"
            )
        self.name_lengths = [len(word_tokens(name)) for name in names]
        self.settings = settings

        with torch.no_grad():
            device = encoder.positional_embedding.device
            padded = tokenize([f"{name}." for name in names], encoder.context_length).to(device)
            rows = encoder.embed(padded)  # start, name, ".", end, padding
            longest_rest = max(len(t) for t in tokens) + 1
            self.register_buffer("start", rows[0, :1].clone(), persistent=False)
            self.register_buffer("class_rows", rows[:, 1 : 1 + longest_rest].clone(), persistent=False)
            self.register_buffer("eos", torch.tensor([len(t) for t in tokens], device=device), persistent=False)
            if init:
                context = encoder.embed(torch.tensor(init, device=device)).clone()
                context = context.expand(len(names), -1, -1).clone() if self.csc else context
            else:
                shape = ((len(names),) if self.csc else ()) + (self.n_ctx, encoder.width)
                context = torch.randn(shape, generator=generator).to(device) * INIT_STD
        self.ctx = nn.Parameter(context.float())

    def forward(self) -> PromptBatch:
        """The prompts of all classes, sharing as long a prefix as their layout allows."""
        k, m = len(self.classnames), self.n_ctx
        if self.position == "end":
            if not self.csc:
                return PromptBatch(torch.cat([self.start, self.ctx]), self.class_rows, self.eos)
            return PromptBatch(self.start, torch.cat([self.ctx, self.class_rows], 1), self.eos + m)
        context = self.ctx if self.csc else self.ctx.expand(k, -1, -1)
        before = m // 2 if self.position == "middle" else 0
        rest = torch.stack(
            [
                torch.cat([c[:before], rows[:n], c[before:], rows[n:]])
                for c, rows, n in zip(context, self.class_rows, self.name_lengths)
            ]
        )
        if self.csc or not before:
            return PromptBatch(self.start, rest, self.eos + m)
        prefix = torch.cat([self.start, self.ctx[:before]])
        return PromptBatch(prefix, rest[:, before:], self.eos + m - before)

    def load_context(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take ``ctx`` from a CoOp-style state dict (``token_prefix`` and ``token_suffix`` are not needed).

        Raises:
            PromptError: no context in it, another shape, or a class-specific one for another class list.
        """
        state = {key.removeprefix("prompt_learner."): value for key, value in state.items()}
        if "ctx" not in state:
            raise PromptError(
                f"{source} holds no context vectors ('ctx'); found: {', '.join(sorted(state)) or 'nothing'}"
            )
        found = state["ctx"]
        if found.shape != self.ctx.shape:
            why = ""
            if found.dim() == 3:
                why = "; it is class-specific (CSC), so it fits only the class list it was tuned on"
            raise PromptError(
                f"{source} holds context of shape {list(found.shape)}, this run has {list(self.ctx.shape)} "
                f"([classes,] vectors, width){why}. Use the N_CTX, CSC and backbone that it was tuned with"
            )
        with torch.no_grad():
            self.ctx.copy_(found.float())
