"""Mixtures of prompts tuned on attacked images, the training stage of TAME (arXiv 2605.17577).

AdvIVLPMoE has input prompts in both towers and, in the layers below, prompts that a router mixes from experts (TAME's
VLI); AdvVPTMoE has them in the image alone (V, which the released code trains with another block than it evaluates).
Everything else is that of AdvIVLP and AdvVPT. Builds on ``trainers/multimodal.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from advpt import losses
from advpt.backbones.mixture import Mixture, VisualMixture
from advpt.prompts.learner import PromptState
from advpt.settings import FROM_0, MixtureContext, register, setting
from trainers.attacked import Step
from trainers.multimodal import AdvVPTSettings, MultimodalTrainer

UNDECAYED = ("tau", "alpha")


@register("TRAINER.ADVIVLPMOE")
class AdvIVLPMoESettings(MixtureContext, AdvVPTSettings):
    balance_w: float = setting(0.0, "weight of the distance of an expert's mean weight to an equal share",
                               allowed=FROM_0)  # fmt: skip
    diversity_w: float = setting(0.0, "weight of the cosines between experts", allowed=FROM_0)
    aux_warmup: int = setting(20, "epochs in which both weights rise from 0", allowed=FROM_0)


@register("TRAINER.ADVVPTMOE")
class AdvVPTMoESettings(AdvIVLPMoESettings):
    """The same in a node of its own."""


class MixtureTrainer(MultimodalTrainer):
    settings: ClassVar[type[AdvIVLPMoESettings]] = AdvIVLPMoESettings
    options: AdvIVLPMoESettings

    def without_decay(self, optimizer: Any, model: nn.Module) -> Any:
        apart = [each for name, each in model.named_parameters() if name.rpartition("_")[2] in UNDECAYED]
        for group in optimizer.param_groups:
            group["params"] = [each for each in group["params"] if not any(each is other for other in apart)]
        if apart:
            optimizer.add_param_group({"params": apart, "weight_decay": 0.0})
        return optimizer

    def current_prompts(self) -> PromptState:
        state = super().current_prompts()
        return routed(state) if self.options.balance_w else state

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().step_loss(step)
        options, mixtures = self.options, mixtures_of(step.state)
        if not (options.balance_w or options.diversity_w):
            return loss, parts
        share = min(1.0, self.epoch / options.aux_warmup) if options.aux_warmup else 1.0
        zero = torch.zeros((), device=loss.device)
        balance = sum((losses.balance(w) for each in mixtures for w in each.routed or ()), zero)
        diversity = sum((losses.diversity(each.experts) for each in mixtures), zero)
        loss = loss + share * (options.balance_w * balance + options.diversity_w * diversity)
        return loss, parts | {"balance": balance.detach(), "diversity": diversity.detach()}


def mixtures_of(state: PromptState) -> list[Mixture]:
    """The mixtures of both towers."""
    text = state.text.deep if state.text is not None else None
    visual = state.visual.deeper if isinstance(state.visual, VisualMixture) else None
    return [each for each in (text, visual) if isinstance(each, Mixture)]


def routed(state: PromptState) -> PromptState:
    """The prompts with lists that get the weights of their routers."""
    text, visual = state.text, state.visual
    if text is not None and isinstance(text.deep, Mixture):
        text = dataclasses.replace(text, deep=dataclasses.replace(text.deep, routed=[]))
    if isinstance(visual, VisualMixture):
        visual = dataclasses.replace(visual, deeper=dataclasses.replace(visual.deeper, routed=[]))
    return PromptState(text, visual)


@TRAINER_REGISTRY.register()
class AdvIVLPMoE(MixtureTrainer):
    layout = "independent"


@TRAINER_REGISTRY.register()
class AdvVPTMoE(MixtureTrainer):
    settings, layout = AdvVPTMoESettings, "visual"
