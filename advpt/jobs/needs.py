"""What a plan needs that is not there: data sets and weights, in sentences."""

from __future__ import annotations

from pathlib import Path

from advpt.backbones import clip, democlip
from advpt.data import catalog, demo_sets
from advpt.errors import ConfigError
from advpt.jobs.local import Places, is_complete
from advpt.jobs.plan import Plan

MADE_HERE = {alias for made in (demo_sets.RENDERED, demo_sets.NOISY, demo_sets.ROTATED) for alias in made.facts.aliases}
NAMES = {"vit_b16": "ViT-B/16", "vit_b32": "ViT-B/32", "vit_l14": "ViT-L/14", "rn50": "RN50", "rn101": "RN101",
         "democlip": democlip.NAME, "democlip_s": democlip.SMALL_NAME}  # fmt: skip


def missing_data(plan: Plan, places: Places) -> list[str]:
    """One sentence for each data set of unfinished jobs whose files are not under the data root."""
    found = []
    waiting = [job for job in plan.jobs if not is_complete(job, places)]
    for name in dict.fromkeys(job.dataset for job in waiting):
        if name in MADE_HERE or name == "digits":
            continue
        try:
            facts = catalog.get(name)
        except ConfigError:
            continue  # somebody's own; the run itself will say
        if catalog.canonical(name) == "ImageFolder":
            own = catalog.own_folder(places.root)
            if absent := [str(own / part) for part in ("train", "test") if not (own / part).is_dir()]:
                found.append(f"{facts.name}: {', '.join(absent)}: expected folders with a folder of images per class")
            continue
        folder = places.root / facts.folder
        wanted = [folder / facts.image_dir if facts.image_dir else folder]
        wanted += [folder / facts.split.filename] if facts.split else []
        absent = [str(path) for path in wanted if not path.exists()]
        if absent:
            found.append(
                f"{facts.name}: {', '.join(absent)}: run python -m advpt prepare {facts.config} --root {places.root}"
            )
    return found


def missing_weights(plan: Plan, places: Places) -> list[str]:
    """One sentence for each backbone of unfinished jobs whose file is not there yet."""
    found = []
    waiting = [job for job in plan.jobs if not is_complete(job, places)]
    for backbone in dict.fromkeys(job.backbone for job in waiting):
        given, name = places.weights.get(backbone), NAMES.get(backbone, backbone)
        if given:
            if not Path(given).expanduser().is_file():
                found.append(f"{backbone}: there is no file {given}")
        elif name in democlip.FILES:
            if not democlip.FILES[name].is_file():
                found.append(f"{name}: {democlip.FILES[name]} ships with the project; install it again")
        elif name in clip.OFFICIAL:
            url, sha = clip.official_file(name)
            file = clip.cache_folder() / url.rsplit("/", 1)[-1]
            if not file.is_file():
                found.append(f"{name}: {file} is fetched from {url} when it is first needed (SHA-256 {sha})")
    return found
