"""A CLIP with its prompts as a torch module, to use and to attack: ``advpt.load`` and ``advpt.zero_shot``.

Pixels in [0, 1] go in and logits come out, differentiable in the pixels, so that foolbox, torchattack and AutoAttack
take it as it is. Normalisation is inside. Nothing is kept between calls: what a defense draws for an image depends on
its pixels and the seed alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from advpt.backbones.backbone import Backbone, ImageEncoder
from advpt.backbones.load import load_backbone
from advpt.data.catalog import DEFAULT_TEMPLATE
from advpt.data.images import Preprocessing
from advpt.defenses import spec as input_defenses
from advpt.defenses.chain import Chain
from advpt.errors import ConfigError, DataError, unknown_name
from advpt.evaluation.saved_run import SavedModel, load_run
from advpt.prediction import Prediction, predict
from advpt.prompts.classifier import Classifier, from_templates
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.settings import BackboneSettings
from advpt.test_time import spec as test_time_defenses
from advpt.test_time.base import DefendedModel, Draws, TestTimeDefense, Variant

OF_TUNING = ("cuda_graphs", "compile")  # settings of a CLIP that nothing here reads
FAR_OUTSIDE = (-1.0, 2.0)  # no attack goes there from [0, 1]; pixels of 0 to 255, or normalised ones, do


class Model(nn.Module):
    """Pixels ``[b, 3, h, w]`` float32 in [0, 1], of :attr:`preprocessing`'s size, to logits ``[b, K]``.

    It is always in evaluation mode, and none of its parameters takes a gradient.

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
        self.input_defense = input_defenses.parse(defense) if defense else None
        self.test_time = test_time_defenses.parse(test_time) if test_time else None
        if self.test_time is not None and self.test_time.input is not None:
            if self.input_defense is not None:
                raise ConfigError(
                    f"defense {defense!r} and test_time {test_time!r} both name a defense of the input; put all of it "
                    f"into one: test_time {f'{defense}+{test_time}'!r}"
                )
            self.input_defense = self.test_time.input
        self.chain: Chain | None = None
        self.reader: TestTimeDefense | None = None
        self._build_defenses()
        self.requires_grad_(False)
        self.eval()

    def _build_defenses(self) -> None:
        """The defenses, for the device that the model is on."""
        self.chain = self.input_defense.build(self.device) if self.input_defense is not None else None
        self.reader = self.test_time.build(self.defended, self.seed) if self.test_time is not None else None

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
    def classifier(self) -> Classifier:
        """What classifies embeddings."""
        return self.saved.classifier

    @property
    def hand_written(self) -> Classifier:
        """The hand-written prompt, which transfer attacks go through."""
        return self.saved.zero_shot

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
    def draws(self) -> bool:
        """Whether a defense draws random numbers."""
        behind = (self.chain, self.reader)
        return any(each is not None and each.draws_noise for each in behind)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The gradients that an attacker who knows the defense at test time may follow, the one that a call has first;
        none without such a defense."""
        return self.reader.variants() if self.reader is not None else ()

    def __repr__(self) -> str:
        """One line; ``model.image`` and ``model.text`` show their layers."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        behind = str(self.test_time or self.input_defense or "")
        if self.test_time is not None and self.test_time.input is None and self.input_defense is not None:
            behind = f"{self.input_defense}+{behind}"
        about = f"{self.backbone.name}, {len(self.classnames)} classes, {self.saved.trainer or 'zero-shot'}"
        return about + (f", behind {behind}" if behind else "")

    # --- what it does -------------------------------------------------------------------------------------------

    def embed(self, pixels: Tensor) -> Tensor:
        """Image embeddings ``[b, L]``, not normalised, of pixels as they are: without defenses."""
        return with_visual_prompts(self.image, self.classifier.visual)(self._sized(pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = self._in_range(self._sized(pixels))
        return self._logits(pixels, self._draws_of(pixels))

    def through(self, variant: str = "", attacker: int | None = None) -> Callable[[Tensor], Tensor]:
        """The model as an attacker may differentiate it, pixels to logits.

        Args:
            variant: name of one of :attr:`variants`; "" for what a call does.
            attacker: seed of random numbers of the attacker's own, new ones in every pass, for attacks that take means
                over passes (EOT); None: those of a call, which are the same for the same pixels.

        Raises:
            ConfigError: no such variant.
        """
        known = {each.name: each for each in self.variants}
        if variant and variant not in known:
            raise ConfigError(unknown_name("variant", variant, known) if known else f"{self.extra_repr()}: no variants")
        generator = torch.Generator().manual_seed(attacker) if attacker is not None else None

        def logits(pixels: Tensor) -> Tensor:
            pixels = self._in_range(self._sized(pixels))
            draws = self._draws_of(pixels) if generator is None else Draws.of_attacker(generator, len(pixels))
            return self._logits(pixels, draws, known.get(variant))

        return logits

    def predict(self, images: Any, batch: int = 32) -> list[Prediction]:
        """:func:`advpt.prediction.predict`: label, confidence and runner-up of image files and PIL images."""
        return predict(self, images, batch)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """``[b, K]``: of each class among the classes; of a SigLIP, which was trained so, of each class by itself."""
        if self.reader is not None:
            return self(pixels).softmax(-1)
        pixels = self._in_range(self._sized(pixels))
        embeddings = self.embed(self._behind_chain(pixels, self._draws_of(pixels)))
        return self.classifier.probabilities(embeddings, self.backbone.logit_bias)

    def _logits(self, pixels: Tensor, draws: Draws, variant: Variant | None = None) -> Tensor:
        pixels = self._behind_chain(pixels, draws)
        if self.reader is None:
            return self.classifier.logits(self.embed(pixels))
        if variant is None and torch.is_grad_enabled() and pixels.requires_grad:
            variant = self.variants[0]
        if variant is not None:
            return variant(self.embed, pixels, draws)
        return self.reader(pixels, draws.keys, False, self.embed)

    def _behind_chain(self, pixels: Tensor, draws: Draws) -> Tensor:
        return pixels if self.chain is None else self.chain.attackable(pixels, draws.noise("defense"))

    def _draws_of(self, pixels: Tensor) -> Draws:
        """The draws of each image, seeded by its own pixels; no keys where nothing is drawn."""
        if self.chain is None and self.reader is None:
            return Draws((), self.seed)
        rows = pixels.detach().cpu().contiguous()
        return Draws(tuple(hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in rows), self.seed)

    def _sized(self, pixels: Tensor) -> Tensor:
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
        if pixels.device != self.device:
            raise DataError(
                f"pixels are on {pixels.device}, the model is on {self.device}; give pixels.to(model.device)"
            )
        return pixels

    def _in_range(self, pixels: Tensor) -> Tensor:
        """Refuse what no image and no attack on one is."""
        if pixels.numel():
            low, high = (float(value) for value in pixels.detach().aminmax())
            if not (low >= FAR_OUTSIDE[0] and high <= FAR_OUTSIDE[1]):
                raise DataError(
                    f"pixels lie in [{low:.3g}, {high:.3g}], expected [0, 1]: divide bytes by 255; normalisation is "
                    "inside the model. model.preprocessing makes pixels from PIL images"
                )
        return pixels

    # --- as a torch module --------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Nothing: there is nothing to train here, and batch norm stays as it was evaluated."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move everything: what :meth:`to`, :meth:`cuda` and :meth:`cpu` call."""
        if (dtype := fn(torch.zeros(1, device=self.device)).dtype) != torch.float32:
            raise ConfigError(f"the model computes in float32, as its attacks do, and cannot be turned into {dtype}")
        super()._apply(fn, recurse)
        self.backbone.model._apply(fn)  # what neither encoder has
        saved = self.saved
        self.saved = dataclasses.replace(
            saved, classifier=saved.classifier.moved(fn), zero_shot=saved.zero_shot.moved(fn)
        )
        self.backbone.device = self.device
        self._build_defenses()
        return self


def load(
    run: str | Path,
    *,
    device: torch.device | str = "cpu",
    weights: str | Path = "",
    image_weights: str | Path = "",
    epoch: int | None = None,
    defense: str = "",
    test_time: str = "",
    seed: int = 0,
) -> Model:
    """The model that a run tuned, from its folder (``output/pets/AdvPT/...``), of any trainer.

    Args:
        weights, image_weights: files of CLIP and of the robust image tower in it, where they are not at the places that
            the folder names.
        epoch: of the checkpoint; None: the best, or the last one written.
        defense, test_time, seed: as of :class:`Model`.

    Raises:
        WeightsError, PromptError: the folder holds no sound model.
    """
    folder = Path(run).expanduser()
    saved = load_run(folder, weights=str(weights), image_weights=str(image_weights), epoch=epoch, device=device)
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
        settings: of ``MODEL``, in small letters: ``weights``, ``image_weights``, ``activation``, ...

    Raises:
        ConfigError: no such model. WeightsError: its weights are not to be had. PromptError: a template without {}.
    """
    given = {"name": name} | {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    leaves = {leaf.field: f"{BackboneSettings.node}.{leaf.name}" for leaf in BackboneSettings.declared()}
    leaves = {field: leaf for field, leaf in leaves.items() if field not in OF_TUNING}
    if unknown := sorted(given.keys() - leaves.keys()):
        raise ConfigError(f"zero_shot: {unknown_name('argument', unknown[0], [*leaves, 'template', 'device'])}")
    if isinstance(classnames, str) or not classnames:
        raise ConfigError(f"classnames is {classnames!r}; give a list of at least one class name")
    flat = {leaves[key]: value for key, value in given.items()}
    backbone = load_backbone(BackboneSettings.from_flat(flat), device)
    templates = (template,) if isinstance(template, str) else tuple(template)
    classifier = from_templates(backbone.text, classnames, templates, backbone.logit_scale)
    image = backbone.card.image
    preprocessing = Preprocessing(image.size, image.interpolation, image.resize)
    saved = SavedModel(backbone, classifier, tuple(classnames), classifier, templates, preprocessing, settings=flat)
    return Model(saved, defense=defense, test_time=test_time, seed=seed)
