"""Which yaml files of the repository a run reads, and the settings that stand beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from advpt.errors import ConfigError, unknown_name
from advpt.jobs import methods
from advpt.jobs.plan import Job, Pairs
from advpt.settings import has_config, recipe

TRAINERS, DATASETS = Path("configs", "trainers"), Path("configs", "datasets")


@dataclass(frozen=True)
class Recipes:
    """The yaml files below a repository.

    Raises:
        ConfigError: all methods, for names of which there is no file.
    """

    repository: Path

    def of(self, method: str, backbone: str, dataset: str) -> Job:
        """A run by the recipe of a trainer, or of :data:`advpt.jobs.methods.COOP_CLEAN`, which runs CoOp with AdvPT's:
        the yaml files, and settings that they lack. Seed, images and purpose are for the caller to say."""
        if method != methods.COOP_CLEAN:
            return self._named(method, backbone, dataset)
        advpt = self._named(methods.ADVPT, backbone, dataset)
        values = self.values(advpt)
        same = tuple((f"TRAINER.COOP.{leaf}", str(values[f"TRAINER.ADVPT.{leaf}"])) for leaf in methods.CONTEXT_LEAVES)
        settings = (*advpt.settings, *same, ("TRAINER.COOP.CLEAN_BANK", "True"))
        return replace(advpt, trainer=methods.COOP, purpose="-clean", settings=settings)

    def values(self, job: Job, more: Pairs = ()) -> Mapping[str, object]:
        """Every setting by its dotted name, on top of this project's defaults."""
        return recipe(self.repository / job.config, (*job.settings, *more))

    def _named(self, trainer: str, backbone: str, dataset: str) -> Job:
        stem, settings = backbone, Pairs()
        if backbone == "democlip_s":
            stem, settings = "democlip", (("MODEL.BACKBONE.NAME", "DemoCLIP-S"),)
        names = [path.name for path in (self.repository / TRAINERS).iterdir() if path.is_dir()]
        if trainer not in names:
            raise ConfigError(unknown_name("trainer", trainer, names))
        special = TRAINERS / trainer / f"{stem}_{dataset}.yaml"
        config = special if has_config(self.repository / special) else TRAINERS / trainer / f"{stem}.yaml"
        if not has_config(self.repository / config):
            raise ConfigError(f"there is no {config}; see the folder {TRAINERS / trainer}")
        if config == special and trainer == methods.WARMUP_BEFORE[0]:
            settings = (*settings, methods.WARMUP_BEFORE[1])
        if (trainer, stem) == methods.RATE_BEFORE:
            settings = (*settings, ("OPTIM.LR", str(recipe(self.repository / config)["OPTIM.LR"])))
        return Job(trainer, dataset, backbone, -1, 1, "", config.as_posix(), self.dataset(dataset), settings)

    def dataset(self, name: str) -> str:
        """The yaml of a data set, relative to the repository."""
        for path in (DATASETS / f"{name}.yaml", DATASETS / "demo" / f"{name}.yaml"):
            if (self.repository / path).is_file():
                return path.as_posix()
        names = [path.stem for path in (self.repository / DATASETS).glob("*.yaml")]
        raise ConfigError(unknown_name("data set", name, names))


def quoted(*texts: str) -> str:
    """Attacks or defenses as a setting's value."""
    return "(" + "".join(f"'{text}'," for text in texts) + ")"
