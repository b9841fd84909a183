"""A CLIP with its prompts as a torch module, to use and to attack: ``advpt.load`` and ``advpt.zero_shot``.

Pixels in [0, 1] go in and logits come out, differentiable in the pixels, so that foolbox, torchattack and AutoAttack
take it as it is. Normalisation is inside. Nothing is kept between calls: what a defense draws for an image depends on
its pixels and the seed alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from advpt.attacks.noise import SampleNoise
from advpt.backbones.backbone import Backbone, ImageEncoder
from advpt.backbones.load import load_backbone
from advpt.data.catalog import DEFAULT_TEMPLATE
from advpt.data.images import Preprocessing
from advpt.defenses import spec as input_defenses
from advpt.errors import ConfigError, DataError
from advpt.evaluation.saved_run import SavedModel, load_run
from advpt.prompts.classifier import from_templates
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.settings import BackboneSettings
from advpt.test_time import spec as test_time_defenses
from advpt.test_time.base import DefendedModel, Draws, TestTimeDefense, Variant

if TYPE_CHECKING:
    from advpt.prediction import Prediction


class Model(nn.Module):
    """Pixels ``[b, 3, h, w]`` float32 in [0, 1], of :attr:`preprocessing`'s size, to logits ``[b, K]``.

    Args:
        saved: CLIP, classifier and classes.
        defense: of the input, as in ``EVAL.DEFENSES`` (``rescale``, ``super:advpt/sigma=0.05+rescale``); "" for none.
        test_time: a defense at test time, as in ``EVAL.TEST_TIME`` (``ttc``, ``mta/views=32``); "" for none.
        seed: of what defenses draw.

    Raises:
        ConfigError: an unknown defense. DefenseError: one that this model cannot have.
    """

    def __init__(self, saved: SavedModel, *, defense: str = "", test_time: str = "", seed: int = 0) -> None:
        super().__init__()
        self.saved, self.seed = saved, seed
        self.image: ImageEncoder = saved.backbone.require_image()
        self.text, self.learner = saved.backbone.text, saved.learner
        self.classifier, self.hand_written = saved.classifier, saved.zero_shot
        self.input_defense = input_defenses.parse(defense) if defense else None
        self.test_time = test_time_defenses.parse(test_time) if test_time else None
        if self.test_time is not None and self.test_time.input is not None:
            if self.input_defense is not None:
                raise ConfigError(
                    f"defense {defense!r} and test_time {test_time!r} both name a defense of the input; put all of it "
                    f"into one: test_time {f'{defense}+{test_time}'!r}"
                )
            self.input_defense = self.test_time.input
        self.chain = self.input_defense.build(self.device) if self.input_defense is not None else None
        self.eval()

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def classnames(self) -> tuple[str, ...]:
        """The K classes, in the order of the logits."""
        return self.saved.classnames

    @property
    def preprocessing(self) -> Preprocessing:
        """PIL images to pixels ``[3, h, w]`` in [0, 1], as the model was tuned and evaluated with."""
        return self.saved.preprocessing

    preprocess = preprocessing

    @property
    def text_features(self) -> Tensor:
        """``[K, L]`` float32 of unit length: what the cosine of an image is taken with. (Of CoCoOp: without the shift
        by an image; of a linear probe: its weights.)"""
        return self.classifier.features

    @property
    def logit_scale(self) -> float:
        """What the cosines are multiplied by."""
        return self.classifier.scale

    @property
    def backbone(self) -> Backbone:
        return self.saved.backbone

    @property
    def device(self) -> torch.device:
        return self.classifier.features.device

    @property
    def defended(self) -> DefendedModel:
        """What a defense may know of the model."""
        return DefendedModel(self.classifier, self.text, self.classnames, self.backbone.card, self.learner)

    @property
    def reader(self) -> TestTimeDefense | None:
        """The defense at test time, on this device."""
        return self.test_time.build(self.defended, self.seed) if self.test_time is not None else None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The gradients that an attacker who knows the defense at test time may follow; none without one."""
        reader = self.reader
        return reader.variants() if reader is not None else ()

    def extra_repr(self) -> str:
        behind = str(self.test_time or self.input_defense or "")
        if self.test_time is not None and self.test_time.input is None and self.input_defense is not None:
            behind = f"{self.input_defense}+{behind}"
        about = f"{self.backbone.name}, {len(self.classnames)} classes, {self.saved.trainer or 'zero-shot'}"
        return about + (f", behind {behind}" if behind else "")

    # --- what it does -------------------------------------------------------------------------------------------

    def embed(self, pixels: Tensor) -> Tensor:
        """Image embeddings ``[b, L]``, not normalised, of pixels as they are: without defenses."""
        return with_visual_prompts(self.image, self.classifier.visual)(self._checked(pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = self._checked(pixels)
        keys = self._keys(pixels) if self.chain is not None or self.test_time is not None else ()
        if self.chain is not None:
            pixels = self.chain.attackable(pixels, SampleNoise([f"defense {key}" for key in keys], self.seed))
        reader = self.reader
        if reader is None:
            return self.classifier.logits(self.embed(pixels))
        if torch.is_grad_enabled() and pixels.requires_grad:
            return reader.variants()[0](self.embed, pixels, Draws(keys, self.seed))
        return reader(pixels, keys, False, self.embed)

    def predict(self, images: Any, batch: int = 64) -> list[Prediction]:
        """:func:`advpt.prediction.predict`: label, confidence and runner-up of image files and PIL images."""
        from advpt.prediction import predict  # which imports this module

        return predict(self, images, batch)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """``[b, K]``: of each class among the classes; of a SigLIP, which was trained so, of each class by itself."""
        if self.test_time is not None:
            return self(pixels).softmax(-1)
        bias = self.backbone.logit_bias
        logits = self(pixels)
        return logits.softmax(-1) if bias is None or self.saved.trainer == "LinearProbe" else (logits + bias).sigmoid()

    def _keys(self, pixels: Tensor) -> tuple[str, ...]:
        """What seeds the draws of each image: its own pixels."""
        rows = pixels.detach().cpu().contiguous()
        return tuple(hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in rows)

    def _checked(self, pixels: Tensor) -> Tensor:
        size = self.backbone.card.image.size
        if (
            pixels.dim() != 4
            or pixels.shape[1] != 3
            or tuple(pixels.shape[-2:]) != size
            or pixels.dtype != torch.float32
        ):
            raise DataError(
                f"{self.backbone.name} reads float32 pixels [b, 3, {size[0]}, {size[1]}] in [0, 1], got {pixels.dtype} "
                f"{list(pixels.shape)}; model.preprocessing makes them from PIL images"
            )
        return pixels

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move everything: what :meth:`to`, :meth:`cuda` and :meth:`cpu` call."""
        if (dtype := fn(torch.zeros(1, device=self.device)).dtype) != torch.float32:
            raise ConfigError(f"the model computes in float32, as its attacks do, and cannot be turned into {dtype}")
        super()._apply(fn, recurse)
        self.classifier, self.hand_written = self.classifier.moved(fn), self.hand_written.moved(fn)
        self.backbone.device = self.device
        self.chain = self.input_defense.build(self.device) if self.input_defense is not None else None
        return self


def load(
    run: str | Path,
    *,
    device: torch.device | str = "cpu",
    weights: str | Path = "",
    epoch: int | None = None,
    defense: str = "",
    test_time: str = "",
    seed: int = 0,
) -> Model:
    """The model that a run tuned, from its folder (``output/pets/AdvPT/...``), of any trainer.

    Args:
        weights: file with CLIP's weights, where it is not at the place that the folder names.
        epoch: of the checkpoint; None: the best, or the last one written.
        defense, test_time, seed: as of :class:`Model`.

    Raises:
        WeightsError, PromptError: the folder holds no sound model.
    """
    folder = Path(run).expanduser()
    saved = load_run(folder, weights=str(weights), epoch=epoch, device=device)
    return Model(saved, defense=defense, test_time=test_time, seed=seed)


def zero_shot(
    name: str,
    classnames: Sequence[str],
    *,
    template: str | Sequence[str] = DEFAULT_TEMPLATE,
    device: torch.device | str = "cpu",
    defense: str = "",
    test_time: str = "",
    seed: int = 0,
    **settings: Any,
) -> Model:
    """A CLIP with hand-written prompts, without a run.

    Args:
        name: ``ViT-B/16``, ``DemoCLIP``, or one of docs/backbones.md.
        classnames: at least one. template: text with ``{}`` for the class name; several are an ensemble.
        defense, test_time, seed: as of :class:`Model`.
        settings: of :class:`advpt.settings.BackboneSettings`: ``weights``, ``image_weights``, ...

    Raises:
        ConfigError: no such model. WeightsError: its weights are not to be had. PromptError: a template without {}.
    """
    known = {leaf.field for leaf in BackboneSettings.declared()}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"zero_shot has no argument {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    if isinstance(classnames, str) or not classnames:
        raise ConfigError(f"classnames is {classnames!r}; give a list of at least one class name")
    backbone = load_backbone(BackboneSettings(name=name, **{k: _text(v) for k, v in settings.items()}), device)
    templates = (template,) if isinstance(template, str) else tuple(template)
    classifier = from_templates(backbone.text, classnames, templates, backbone.logit_scale)
    image = backbone.card.image
    preprocessing = Preprocessing(image.size, image.interpolation, image.resize)
    saved = SavedModel(backbone, classifier, tuple(classnames), classifier, templates, preprocessing)
    return Model(saved, defense=defense, test_time=test_time, seed=seed)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
