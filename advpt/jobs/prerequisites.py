"""What a plan needs that is not there: data sets and weights, in sentences."""

from __future__ import annotations

from pathlib import Path

from advpt.backbones import clip, democlip, find
from advpt.data import catalog, demo_sets
from advpt.errors import ConfigError
from advpt.jobs.places import Places, is_complete
from advpt.jobs.plan import Plan
from advpt.settings import backbone_file, recipe

GENERATED = ("digits", *(a for made in (demo_sets.RENDERED, demo_sets.NOISY, demo_sets.ROTATED)
                         for a in made.facts.aliases))  # fmt: skip
DEMO = {"democlip": democlip.NAME, "democlip_s": democlip.SMALL_NAME}  # the others have a file in configs/backbones


def missing_data(plan: Plan, places: Places) -> list[str]:
    """One sentence for each data set of unfinished jobs whose files are not under the data root."""
    names = dict.fromkeys(job.dataset for job in plan.jobs if not is_complete(job, places))
    return [sentence for name in names if name not in GENERATED and (sentence := _missing(name, places.root))]


def _missing(name: str, root: Path) -> str:
    try:
        facts = catalog.get(name)
    except ConfigError:
        return ""  # a data set of another repository; the run itself will say
    if catalog.canonical(name) == "ImageFolder":
        own = catalog.own_folder(root)
        paths, advice = [own / part for part in ("train", "test")], "expected folders with a folder of images per class"
    else:
        folder = root / facts.folder
        paths = [folder / facts.image_dir if facts.image_dir else folder]
        paths += [folder / facts.split.filename] if facts.split else []
        advice = f"run python -m advpt prepare {facts.config} --root {root}"
    absent = ", ".join(str(path) for path in paths if not path.exists())
    return f"{facts.name}: {absent}: {advice}" if absent else ""


def missing_weights(plan: Plan, places: Places) -> list[str]:
    """One sentence for each backbone of unfinished jobs whose file is not there yet."""
    backbones = dict.fromkeys(job.backbone for job in plan.jobs if not is_complete(job, places))
    return [sentence for backbone in backbones if (sentence := _missing_file(backbone, places))]


def backbone_name(short: str, repository: Path) -> str:
    """``MODEL.BACKBONE.NAME`` of a backbone's short name; other names are what they are."""
    file = backbone_file(repository, short)
    return str(recipe(file)["MODEL.BACKBONE.NAME"]) if file is not None else DEMO.get(short, short)


def _missing_file(backbone: str, places: Places) -> str:
    if given := places.weights.get(backbone):
        return "" if Path(given).expanduser().is_file() else f"{backbone}: there is no file {given}"
    return missing_name(backbone_name(backbone, places.repository))


def missing_name(name: str) -> str:
    """A sentence where the weights of a model are not there yet, else "". Opens no connection."""
    if name in democlip.FILES and not democlip.FILES[name].is_file():
        return f"{name}: {democlip.FILES[name]} ships with the project; install it again"
    if name in clip.OFFICIAL:
        url, sha = clip.official_file(name)
        file = clip.cache_folder() / url.rsplit("/", 1)[-1]
        if not file.is_file():
            return f"{name}: {file} is fetched from {url} when it is first needed (SHA-256 {sha})"
    return find.missing(name)
