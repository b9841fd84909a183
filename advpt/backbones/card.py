"""What a model is, free of weights: everything that turns its tensors into numbers, and what can be done with it.

Neither activation nor heads, norms, pooling, preprocessing or special tokens are in any tensor. Cards come from
OpenAI's code or from a configuration of open_clip's or transformers'; two models with the same tensors and other cards
are two models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from advpt.errors import WeightsError
from advpt.files import digest, tensor_digest

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64  # of every head in OpenAI's model code
QUICKGELU, GELU, TANH_GELU = "quickgelu", "gelu", "gelu_tanh"
READS = ("end", "last", "first")  # position that a text's feature is read at


@dataclass(frozen=True)
class ImageCard:
    """An image tower and what its pixels are.

    Args:
        size: height and width in pixels.
        activation: of its blocks; "" where the model code alone says (a ResNet, towers of timm).
        heads: of each block; 0 where the model code alone says.
        eps: of its norms.
        kind: ``vit`` (OpenAI's and open_clip's), ``resnet`` (OpenAI's) or ``timm``.
        family: what it is called in messages: ``ViT``, ``ResNet``, ``ConvNeXt``.
        width: of its tokens, or of a ResNet's first layer.
        blocks: residual blocks of a transformer.
        tokens: of an image: class token if there is one, registers and patches. None where there are none that prompts
            can stand among.
        pool: what the feature is made of: ``class`` (a token), ``mean`` (of all patches), ``map`` (a query that
            attends), ``attention`` (a ResNet's), or timm's word for it.
        norm_last: whether the last norm comes behind the pooling.
        module: timm's name of the tower, which stands for all that the card leaves out.
    """

    size: tuple[int, int]
    activation: str = QUICKGELU
    heads: int = 0
    eps: float = 1e-5
    kind: str = "vit"
    family: str = "ViT"
    width: int | None = None
    blocks: int | None = None
    tokens: int | None = None
    pool: str = "class"
    norm_last: bool = False
    module: str = ""
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"
    resize: str = "shortest"

    @property
    def prompts(self) -> bool:
        """Whether visual prompts can stand among its tokens, and TAPT's statistics be taken of them."""
        return self.tokens is not None

    @property
    def reads_class_token(self) -> bool:
        """Whether the feature is a class token behind the last norm and a projection, which all tokens can go through
        (:meth:`~advpt.backbones.backbone.ImageEncoder.tokens`)."""
        return self.kind == "vit" and self.pool == "class"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of a tower that reads a class token."""
        patches, (height, width) = (self.tokens or 1) - 1, self.size
        rows = round(math.sqrt(patches * height / width))
        return rows, patches // max(1, rows)

    def reading(self) -> dict[str, JSON]:
        """What turns its tensors into numbers, for digests and records; preprocessing is in the keys of banks."""
        left_out = ("interpolation", "resize", "family", "width", "blocks", "tokens")
        return {name: value for name, value in fields(self).items() if name not in left_out}

    def read_otherwise(self) -> dict[str, JSON] | None:
        """:meth:`reading`; None where OpenAI's code turns such tensors into the same numbers."""
        vit = self.kind != "resnet"
        openai = dataclasses.replace(
            self,
            activation=QUICKGELU if vit else "",
            heads=(self.width or 0) * (1 if vit else 32) // HEAD_WIDTH,
            eps=1e-5,
            kind="vit" if vit else "resnet",
            pool="class" if vit else "attention",
            norm_last=False,
            module="",
            mean=CLIP_MEAN,
            std=CLIP_STD,
        )
        return None if self.reading() == openai.reading() else self.reading()


@dataclass(frozen=True)
class TextCard:
    """A text tower and what its tokens are.

    Args:
        context: positions that it reads. vocabulary: rows of its token table.
        causal: whether a position sees those before it alone.
        reads: the position that the feature is read at.
        tokenizer: ``bpe`` (OpenAI's), else the SHA-256 of its file.
        start: ids in front of every text. end: id behind it; None where there is none.
        pad: id of the positions behind. tail: ids of the last positions.
        clean: what is done to a text first: ``clip`` (OpenAI's), ``canonicalize``, ``whitespace``, ``lower``.
    """

    context: int = 77
    vocabulary: int = 49408
    width: int = 512
    heads: int = 8
    blocks: int = 12
    activation: str = QUICKGELU
    eps: float = 1e-5
    causal: bool = True
    reads: str = "end"
    tokenizer: str = "bpe"
    start: tuple[int, ...] = (49406,)
    end: int | None = 49407
    pad: int = 0
    tail: tuple[int, ...] = ()
    clean: str = "clip"

    def __post_init__(self) -> None:
        if self.reads not in READS or (self.causal and self.reads == "first"):
            order = "a causal" if self.causal else "this"
            raise WeightsError(
                f"the feature of {order} text tower is read at {self.reads!r}; expected one of {', '.join(READS)}, "
                "and of a causal tower end or last: its first position sees no word"
            )

    @property
    def shares_prefix(self) -> bool:
        """Whether what prompts have in common at their beginning is computed once, and their padding never: a causal
        tower that is read at the end token. Elsewhere every position is part of the feature."""
        return self.causal and self.reads == "end" and bool(self.start)

    def reading(self) -> dict[str, JSON]:
        """What turns its tensors into numbers, for digests and records."""
        return {name: value for name, value in fields(self).items() if name not in ("vocabulary", "width", "blocks")}

    def read_otherwise(self) -> dict[str, JSON] | None:
        """:meth:`reading`; None where OpenAI's code turns such tensors into the same numbers."""
        openai = openai_text(self.context, self.vocabulary, self.width, self.blocks)
        return None if self == openai else self.reading()


def openai_text(context: int, vocabulary: int, width: int, blocks: int) -> TextCard:
    """A text tower of these sizes as OpenAI's code reads it; start and end are the last rows of its table."""
    heads = max(1, width // HEAD_WIDTH)
    return TextCard(context, vocabulary, width, heads, blocks, start=(vocabulary - 2,), end=vocabulary - 1)


@dataclass(frozen=True)
class Card:
    """A whole model.

    Args:
        name: canonical ``MODEL.BACKBONE.NAME``.
        embed_dim: of its features.
        head: ``softmax``, or ``sigmoid`` (SigLIP's), whose probabilities have a bias.
        config: open_clip's ``model_cfg`` as JSON text, of which :mod:`advpt.backbones.open_clip` builds the model; ""
            for OpenAI's code.
    """

    name: str
    embed_dim: int
    image: ImageCard
    text: TextCard
    head: str = "softmax"
    config: str = ""

    def fields(self) -> dict[str, JSON]:
        """Everything, as JSON values."""
        return fields(self)


def fields(card: ImageCard | TextCard | Card) -> dict[str, JSON]:
    """A card's fields as JSON values."""

    def plain(value: object) -> JSON:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value  # type: ignore[return-value]

    return {name: plain(value) for name, value in dataclasses.asdict(card).items()}


def digest_of_tower(tensors: Mapping[str, Tensor], card: ImageCard | TextCard) -> str:
    """SHA-256 of a tower: of its tensors, and of how they are read where OpenAI's code would read them otherwise."""
    reads, sha = card.read_otherwise(), tensor_digest(tensors)
    return sha if reads is None else digest({"tensors": sha, "reads": reads})
