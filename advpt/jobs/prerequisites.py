"""What a plan needs that is not there: data sets and weights, in sentences."""

from __future__ import annotations

from pathlib import Path

from advpt.backbones import clip, democlip
from advpt.data import catalog, demo_sets
from advpt.errors import ConfigError
from advpt.jobs.places import Places, is_complete
from advpt.jobs.plan import Plan
from advpt.settings import recipe


def missing_data(plan: Plan, places: Places) -> list[str]:
    """One sentence for each data set of unfinished jobs whose files are not under the data root."""
    names = dict.fromkeys(job.dataset for job in plan.jobs if not is_complete(job, places))
    return list(filter(None, (_missing(name, places.root) for name in names)))


def _missing(name: str, root: Path) -> str:
    if name == "digits" or name in demo_sets.BY_ALIAS:  # made where they are needed
        return ""
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
    jobs = {job.backbone: job for job in plan.jobs if not is_complete(job, places)}
    names = {key: recipe(places.repository / job.config, job.settings) for key, job in jobs.items()}
    sentences = (
        _missing_file(key, values["MODEL.BACKBONE.NAME"], places.weights.get(key)) for key, values in names.items()
    )
    return list(filter(None, sentences))


def _missing_file(backbone: str, name: str, given: str | None) -> str:
    if given:
        return "" if Path(given).expanduser().is_file() else f"{backbone}: there is no file {given}"
    if name in democlip.FILES and not democlip.FILES[name].is_file():
        return f"{name}: {democlip.FILES[name]} ships with the project; install it again"
    if name in clip.OFFICIAL:
        url, sha = clip.official_file(name)
        file = clip.cache_folder() / url.rsplit("/", 1)[-1]
        if not file.is_file():
            return f"{name}: {file} is fetched from {url} when it is first needed (SHA-256 {sha})"
    return ""
