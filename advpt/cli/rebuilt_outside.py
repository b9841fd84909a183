"""The evaluation of an outside model again, from its records and the code that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from advpt.cli import common
from advpt.cli.outside_images import reader
from advpt.data import catalog, data_root
from advpt.errors import ConfigError
from advpt.evaluation.record import Record
from advpt.jobs.outside_models import ReadImages, from_folder
from advpt.outside.evaluate import OutsideSubject, examine, subject_of
from advpt.outside.load import load
from advpt.schema import Json
from advpt.settings import BankSettings, EvalSettings


def subject(
    record: Record, settings: Mapping[str, Json], name: str, folder: str, root: str, scratch: Path
) -> OutsideSubject:
    """What records of an outside model with the same settings are of. The model's modules are frozen for good.

    Args:
        settings: of the record, complete. name: ``my.module:make``, as the user typed it.
        folder: of images in class folders; "" where the data set is a registered one below ``root``.
        scratch: a folder for banks.

    Raises:
        AdvPTError: a sentence on what is missing.
    """
    result = record.result
    if not name:
        raise ConfigError(
            f"it is of {result.backbone.name}, a model from outside, whose code no record has: name it with --model "
            "my.module:make"
        )
    model = load(name)
    images, warnings = _images(result.dataset, folder, root)(model)
    model = model.for_classes(images.classnames)
    for module in model.modules:
        module.eval().requires_grad_(False)
    return subject_of(
        model,
        examine(model, images),
        images,
        EvalSettings.from_flat(settings),
        scratch / "banks",
        chunk=BankSettings.from_flat(settings).chunk,
        seed=result.seed,
        warnings=warnings,
    )


def _images(dataset: str, folder: str, root: str) -> ReadImages:
    """Reads the images of a data set, by the name that records have."""
    if folder:
        return from_folder(Path(folder))
    if catalog.canonical(dataset) == dataset and dataset in catalog.names():
        for alias in catalog.get(dataset).aliases:
            if (common.repository() / "configs" / "datasets" / f"{alias}.yaml").is_file():
                return reader(alias, Path(data_root(root)[0]))
    raise ConfigError(f"its images are those of {dataset}, which is no data set here: name their folder with --folder")
