"""Makes the jobs that tables and figures need, in one reproduction setup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advpt.jobs import methods
from advpt.jobs.plan import Pairs, Planner
from advpt.jobs.recipes import Recipes, quoted
from advpt.jobs.setup import ReproductionSetup

WORDS, PICTURES = 5, 4  # nearest words of each context vector, and pictures of attacked images, of main runs


@dataclass(frozen=True)
class Evaluation:
    """What a run measures: attacks, each with the protocol behind its colon, alone and behind each defense.

    ``subset``: so many test images, 0 for all, None for the setup's number.
    """

    attacks: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    subset: int | None = None


@dataclass(frozen=True)
class Variant:
    """``as_published``: the methods of peers have the recipes of their authors. ``all_statistics``: TAPT's statistics
    are taken over all training images."""

    as_published: bool = False
    all_statistics: bool = False


class Builder(Planner):
    """Makes and collects the jobs of a setup.

    Args:
        setup: what is reproduced. repository: the checkout with the yaml files.
        more: settings of every run, after all others. variant: of the exhibits that have some.
    """

    def __init__(
        self, setup: ReproductionSetup, repository: Path, more: Sequence[tuple[str, str]] = (),
        variant: Variant = Variant(),  # noqa: B008 - frozen
    ) -> None:  # fmt: skip
        super().__init__()
        self.setup, self.recipes, self.more, self.variant = setup, Recipes(repository), tuple(more), variant

    def job(
        self,
        method: str,
        dataset: str,
        backbone: str,
        seed: int,
        purpose: str,
        evaluation: Evaluation,
        settings: Sequence[tuple[str, str]] = (),
        *,
        shots: int = -1,
        model: str = "",
        runs: Pairs = (),
        after: tuple[str, ...] = (),
    ) -> str:
        """The id of a run of a method (a trainer, or a name of :mod:`advpt.jobs.methods`); ``shots`` and what follows
        are of :class:`advpt.jobs.plan.Job`."""
        recipe, subset = self.recipes.of(method, backbone, dataset), evaluation.subset
        subset = self.setup.subset if subset is None else subset
        pairs = [*recipe.settings, *self.setup.common]
        pairs += [("EVAL.ATTACKS", quoted(*evaluation.attacks)), ("EVAL.PROTOCOLS", quoted("transfer"))]
        pairs += [("EVAL.DEFENSES", quoted(*evaluation.defenses))] if evaluation.defenses else []
        pairs += [("EVAL.SUBSET", str(subset))] if subset else []
        pairs += [*settings, *self.more]
        job = replace(recipe, shots=shots, seed=seed, purpose=purpose + recipe.purpose, settings=tuple(pairs))
        return self.add(replace(job, model=model, runs=runs, after=after))

    def values(self, method: str, backbone: str, dataset: str) -> Mapping[str, object]:
        """Every setting that a run of a method has in this setup, before those of its evaluation."""
        return self.recipes.values(self.recipes.of(method, backbone, dataset), (*self.setup.common, *self.more))

    def seeds(self, method: str, of: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Those of a method's runs, from ``of`` (default: the setup's): one where nothing is drawn."""
        seeds = of or self.setup.seeds
        return seeds[:1] if method in methods.ONE_SEED else seeds

    def main(self, method: str, dataset: str, backbone: str) -> tuple[str, ...]:
        """Train on the whole split and evaluate as Table 1 does; the ids, one for each seed."""
        s, ids = self.setup, []
        attacks = (f"{s.pgd}:transfer", f"{s.rap}:transfer", f"{s.adaptive}:adaptive")
        for seed in self.seeds(method):
            settings: Pairs = ()
            if method == methods.ADVPT:
                settings = (("EVAL.WORDS", str(WORDS)),)
                settings += (("EVAL.PICTURES", str(PICTURES)),) if seed == s.seeds[0] else ()
            ids.append(self.job(method, dataset, backbone, seed, "main", Evaluation(attacks), settings))
        return tuple(ids)

    def tuned_methods(self) -> tuple[str, ...]:
        """Zero-shot CLIP, CoOp by its own recipe, CoOp that differs from AdvPT in the attack alone, and AdvPT. Where
        CoOp's own recipe is already on a clean bank (the demo), it stands once."""
        s = self.setup
        values = self.values(methods.COOP, s.backbones[0], s.datasets[0]) if s.backbones and s.datasets else {}
        coop = () if values.get("TRAINER.COOP.CLEAN_BANK") else (methods.COOP,)
        return (methods.ZEROSHOT, *coop, methods.COOP_CLEAN, methods.ADVPT)

    def evaluated(
        self, method: str, dataset: str, backbone: str, purpose: str, evaluation: Evaluation, source: str = ""
    ) -> tuple[str, ...]:
        """Evaluate what :meth:`main` trained (on ``source``, else on the same data set); zero-shot CLIP as it is."""
        models = ("",) if method == methods.ZEROSHOT else self.main(method, source or dataset, backbone)
        return tuple(
            self.job(method, dataset, backbone, seed, purpose, evaluation, model=model)
            for seed, model in zip(self.seeds(method), models)
        )
