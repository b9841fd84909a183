"""Sweeps: data sets x backbones x methods x shots x seeds, each with the evaluation of its yaml."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from advpt.jobs.methods import COOP_CLEAN, ZEROSHOT
from advpt.jobs.plan import Job, Plan, Planner
from advpt.jobs.recipes import Recipes


def sweep(
    datasets: Sequence[str],
    backbones: Sequence[str],
    methods: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    repository: Path,
    more: Sequence[tuple[str, str]] = (),
) -> Plan:
    """The product as a plan; zero-shot CLIP, which reads no training image and draws nothing, stands once.

    Raises:
        ConfigError: a yaml that does not exist.
    """
    planner, recipes = Planner(), Recipes(repository)
    for dataset, backbone, method in itertools.product(datasets, backbones, methods):
        recipe, once = recipes.of(method, backbone, dataset), method == ZEROSHOT
        for n, seed in itertools.product(shots[:1] if once else shots, seeds[:1] if once else seeds):
            planner.add(
                Job(
                    trainer=recipe.trainer,
                    dataset=dataset,
                    backbone=backbone,
                    shots=-1 if once else n,
                    seed=seed,
                    purpose="sweep-clean" if method == COOP_CLEAN else "sweep",
                    config=recipe.config,
                    dataset_config=recipes.dataset(dataset),
                    settings=(*recipe.settings, *more),
                )
            )
    return planner.plan()
