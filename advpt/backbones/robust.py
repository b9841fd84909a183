"""Adversarially trained image towers in the place of a CLIP's own.

No tensor shows what a tower was trained from: OpenAI's CLIPs have QuickGELU and LAION's GELU, which load into each
other without a message. So all that a tower's source says is compared with the CLIP that it shall stand in: names and
shapes of all tensors, the activation, heads and pixels of a configuration beside them, and a text tower, which is the
CLIP's own. The formats: :mod:`advpt.backbones.tower_files`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from advpt.backbones import card as cards
from advpt.backbones import names
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import QUICKGELU, digest_of_tower
from advpt.backbones.tower_files import TEXT, Tower
from advpt.backbones.tuned_tower import activation_of
from advpt.errors import WeightsError

log = logging.getLogger(__name__)


def put_tower(backbone: Backbone, tower: Tower, activation: str = QUICKGELU) -> None:
    """Put an image tower in the place of a backbone's own, float32; every tensor of it fits.

    Args:
        backbone: whose hash of the image tower was not taken yet. activation: ``MODEL.IMAGE_ACTIVATION``, for towers
            whose source does not say it.

    Raises:
        WeightsError: with what differs: another architecture, names that are missing or left over, values that are not
            finite, another activation, mean or deviation, a text tower that is not this CLIP's, a tower that was tuned
            from another CLIP or changed since, or none: the CLIP's own beside a prompter.
    """
    visual = backbone.model.visual.state_dict()
    require_architecture(backbone.name, tower, visual)
    require_activation(backbone, tower, activation)
    require_reading(backbone, tower)
    require_text(backbone, tower)
    require_provenance(backbone, tower)
    if all(torch.equal(value.cpu(), tower.visual[name].to(value.dtype)) for name, value in visual.items()):
        same = f"{tower.source} holds the image tower of {backbone.name} as it is, bit by bit"
        if tower.prompter:
            raise WeightsError(f"{same}: what was trained is the visual prompter beside it, and no tower")
        log.warning("%s: nothing in it is more robust", same)
    backbone.model.visual.load_state_dict(dict(tower.visual))
    backbone.image_file = {**tower.facts, "activation": activation_of(backbone)}


def require_activation(backbone: Backbone, tower: Tower, asked: str) -> None:
    """Refuse a tower of another activation. A source that does not say it is believed by its text tower where it has
    one (:func:`require_text`), else by ``asked``."""
    name, expected, shown = backbone.name, activation_of(backbone), tower.shown.get("activation")
    if shown and asked not in (QUICKGELU, shown):  # quickgelu is also what was not asked
        raise WeightsError(
            f"MODEL.IMAGE_ACTIVATION is {asked!r}, and {tower.source} says {shown}; leave MODEL.IMAGE_ACTIVATION out"
        )
    needs = (
        "Towers made from OpenAI's CLIPs need quickgelu and stand in OpenAI's; those made from LAION's need gelu and "
        "their CLIPs' text tower: MODEL.BACKBONE.NAME open_clip:ViT-B-32/laion2b_s34b_b79k MODEL.IMAGE_ACTIVATION gelu"
    )
    if shown and shown != expected:
        whole = f". The whole model: {names.MODEL} {tower.whole}" if tower.whole else ""
        raise WeightsError(f"{tower.source} has {shown}, and {name} has {expected}. {needs}{whole}")
    if not shown and asked != expected and (asked != QUICKGELU or not tower.text):
        raise WeightsError(f"MODEL.IMAGE_ACTIVATION is {asked!r}, and {name} has {expected}. {needs}")


def require_architecture(name: str, tower: Tower, wanted: Mapping[str, Tensor]) -> None:
    """Refuse names that are missing or left over, other shapes, and values that are not finite or no fractions.

    Args:
        name: of the CLIP. wanted: the tensors of its image tower.
    """
    given, source = tower.visual, tower.source
    if (
        "ln_pre.weight" in wanted
        and "ln_pre.weight" not in given
        and {"ln_post.weight", "conv1.weight"} <= given.keys()
    ):
        whole = tower.whole or "hf-hub:zw123/delta_clip_l14_224"
        raise WeightsError(
            f"{source} is no image tower of {name}: it has no norm in front of its blocks (ln_pre), as CLIPA's "
            "architecture (Delta-CLIP) has none, which averages patches and has a text tower of its own. Take it as a "
            f"whole model: {names.MODEL} {whole}"
        )
    lacking, more = sorted(wanted.keys() - given.keys()), [*sorted(given.keys() - wanted.keys()), *tower.others]
    if lacking or more:
        raise WeightsError(
            f"{source} is no image tower of {name}: {len(lacking)} of {len(wanted)} tensors are missing"
            f"{f' (the first is {lacking[0]})' if lacking else ''}, {len(more)} are unknown"
            f"{f' (the first is {more[0]})' if more else ''}; name the backbone that it was trained from"
        )
    for key in sorted(wanted, key=lambda key: key != "conv1.weight"):
        mine, theirs = wanted[key], given[key]
        if mine.shape != theirs.shape:
            raise WeightsError(
                f"{source} is no image tower of {name}: {key} has shape {list(theirs.shape)}, expected "
                f"{list(mine.shape)}{_sizes(key, theirs, mine)}; name the backbone that it was trained from"
            )
        if mine.is_floating_point() != theirs.is_floating_point():
            raise WeightsError(f"{source} is no image tower of {name}: {key} is {theirs.dtype}, expected {mine.dtype}")
        if not bool(torch.isfinite(theirs).all()):
            raise WeightsError(f"{source} is damaged: {key} is not finite; compare its SHA-256 with its source's")


def _sizes(key: str, theirs: Tensor, mine: Tensor) -> str:
    """What another shape means where one number says it."""
    if key == "conv1.weight" and theirs.dim() == 4 and theirs.shape[-1] != mine.shape[-1]:
        return f" (patches of {theirs.shape[-1]} pixels, and of {mine.shape[-1]})"
    if key == "positional_embedding" and theirs.shape[-1:] == mine.shape[-1:]:
        return f" (images of {len(theirs)} tokens, and of {len(mine)}: another size in pixels)"
    return ""


def require_reading(backbone: Backbone, tower: Tower) -> None:
    """Refuse a tower whose source says that its tensors or pixels are read in another way than the backbone's."""
    mine = cards.fields(backbone.card.image)
    differ = [
        f"{key} {_text(value)}, expected {_text(mine[key])}"
        for key, value in tower.shown.items()
        if key != "activation" and _text(value) != _text(mine[key])
    ]
    if differ:
        whole = f" Take it as a whole model: {names.MODEL} {tower.whole}" if tower.whole else ""
        raise WeightsError(
            f"{tower.source} is no image tower of {backbone.name}: it was trained with {'; '.join(differ)}. Read in "
            f"another way, every number is off.{whole}"
        )


def _text(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)


def require_text(backbone: Backbone, tower: Tower) -> None:
    """Refuse a whole CLIP whose text tower is not the backbone's, at the precision of the file."""
    state = {name.removeprefix("text."): value for name, value in backbone.model.state_dict().items()}
    mine = {name: value.cpu() for name, value in state.items() if name.split(".")[0] in TEXT}
    if not tower.text:
        return
    differ = [name for name in mine if name not in tower.text or not _is_same(tower.text[name], mine[name])]
    if differ := sorted([*differ, *(tower.text.keys() - mine.keys())]):
        whole = f" The whole model: {names.MODEL} {tower.whole}." if tower.whole else ""
        raise WeightsError(
            f"{tower.source} holds a whole CLIP whose text tower is not that of {backbone.name} ({len(differ)} of "
            f"{len(mine)} tensors differ, the first is {differ[0]}): it was made from another CLIP, which may need "
            f"another activation too, or its text tower was changed.{whole} A tower alone needs the text tower that "
            "it was made with"
        )


def _is_same(theirs: Tensor, mine: Tensor) -> bool:
    return torch.equal(theirs, mine.to(theirs.dtype))


def require_provenance(backbone: Backbone, tower: Tower) -> None:
    """Refuse a tower that was tuned here from another CLIP, or is not what its metadata say."""
    if (tuned := tower.tuned) is None:
        return
    if tuned.base.text != backbone.text_digest:
        raise WeightsError(
            f"{tower.source} was tuned from {tuned.base.name} with the text tower {tuned.base.text[:12]}, and "
            f"{backbone.name} has {backbone.text_digest[:12]}; name that CLIP with {names.MODEL} and MODEL.WEIGHTS"
        )
    actual = digest_of_tower(tower.visual, backbone.card.image)
    if actual != tuned.image:
        raise WeightsError(
            f"{tower.source} is not the tower that its metadata describe: its SHA-256 as {backbone.name} reads it is "
            f"{actual[:12]}, and they say {tuned.image[:12]}. It was changed, or made with another architecture; take "
            f"the file that {tuned.trainer} left"
        )
