"""What run folders, records and banks have gained since format v1, and what it is where they lack it.

Files of today leave it out where it has that value, so bank keys, record ids and the identity of a run stay what they
were. A new setting says ``added=True`` where it is declared, a new field is one line here. Their defaults never change
again: another default would be another meaning of every file that lacks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advpt.files import canonical_json

# Leaves of the configuration with their defaults: advpt.settings.register enters those that it is told are newer.
SETTINGS: dict[str, Any] = {}
# Other values of such leaves that say what old files mean, in more words: they are left out like the default.
SAME_AS_DEFAULT: dict[str, tuple[Any, ...]] = {"MODEL.ACTIVATION": ("quickgelu",), "INPUT.RESIZE": ("shortest",)}
# Beginnings of names of models with a configuration of their own, to which an empty MODEL.ACTIVATION leaves it.
CONFIGURED = ("open_clip:", "hf-hub:", "local-dir:")

# Fields of a bank's spec and of a record's result, by dotted name; those of a list's items by the name of the list.
BANK_FIELDS: dict[str, Any] = {
    "adversarial_set.data.protocol": "coop",
    "adversarial_set.attacked.visual_prompt": None,
    "adversarial_set.preprocessing.resize": "shortest",
    "adversarial_set.labels": None,  # the true ones
}
RESULT_FIELDS: dict[str, Any] = {
    "backbone.image_file": None,
    "backbone.source": None,  # where a model that is not OpenAI's came from
    "backbone.reads": None,  # how both towers' tensors are read, where it is not as OpenAI's code reads them
    "tuning.decay": 0.01,  # of test-time tuning
    "tuning.frozen": (),  # parts of its prompts that stay as they are
    "training.c_chosen_on": None,  # of a linear probe; None: C was given, or it is not known
}

PROMPT_FIELDS: dict[str, Any] = {"experts": 0, "router": "hybrid"}  # of the layout beside a checkpoint of prompts


def omit(fields: Mapping[str, Any], added: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``fields`` (JSON) without those that were ``added`` and have the value of what lacks them; nested ones too.
    ``prefix``: of their dotted names."""

    def inside(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return omit(value, added, f"{name}.")
        return [inside(each, name) for each in value] if isinstance(value, list | tuple) else value

    return {
        name: inside(value, prefix + name)
        for name, value in fields.items()
        if prefix + name not in added or canonical_json(value) != canonical_json(added[prefix + name])
    }


def is_as_before(name: str, value: Any) -> bool:
    """Whether a leaf was added and its value says what files that lack it mean."""
    if name not in SETTINGS:
        return False
    return value in SAME_AS_DEFAULT.get(name, ()) or canonical_json(value) == canonical_json(SETTINGS[name])


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat ``settings`` of a run folder or record, of whatever version, with every added leaf that they lack."""
    return {n: list(v) if isinstance(v, tuple) else v for n, v in SETTINGS.items()} | dict(settings)
