"""Say which part of upstream Dassl an import asked for, when that part is left out on purpose."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

PARTS = {
    "dassl.modeling": "the backbones, heads and networks",
    "dassl.engine.da": "the domain adaptation trainers",
    "dassl.engine.dg": "the domain generalisation trainers",
    "dassl.engine.ssl": "the semi-supervised trainers",
    "dassl.data.datasets.da": "the domain adaptation datasets",
    "dassl.data.datasets.dg": "the domain generalisation datasets",
    "dassl.data.datasets.ssl": "the semi-supervised datasets",
    "dassl.data.transforms.autoaugment": "the automatic augmentation policies",
    "dassl.data.transforms.randaugment": "the automatic augmentation policies",
    "dassl.optim.radam": "its own RAdam optimizer",
}
PRIVATE = {"dassl.utils.tpt_tools": "PromptAlign's copy of Dassl"}
TRAINERS = """
    SE MCD MME ADDA CDAC DAEL DANN AdaBN M3SDA SourceOnly DDAIG DAELDG Vanilla CrossGrad DomainMix
    EntMin FixMatch MixMatch MeanTeacher SupBaseline
"""


def explain(fullname: str) -> str:
    """One sentence on why ``fullname`` cannot be imported from this package."""
    parent, _, name = fullname.rpartition(".")
    if fullname in PRIVATE:
        return f"{fullname} belongs to {PRIVATE[fullname]}, not to Dassl; it is not supported"
    if fullname in PARTS:
        return f"{fullname} ({PARTS[fullname]} of upstream Dassl) is not included in dassl-lite"
    if parent == "dassl.engine" and name in TRAINERS.split():
        return f"trainer {name!r} of upstream Dassl is not included in dassl-lite"
    if parent == "dassl.data.datasets" and name[:1].isupper():
        return f"dassl-lite has no dataset {name!r}: upstream's DA, DG and SSL datasets are not included"
    return f"dassl-lite has no {name!r} in {parent!r}: it is a subset of upstream Dassl"


class AbsentPartFinder:
    """Last finder on ``sys.meta_path``: reached only by names under ``dassl`` that nothing else found."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.rpartition(".")[2]
        if not fullname.startswith("dassl.") or name.startswith("_"):
            return None
        # Not ModuleNotFoundError: `from package import name` would swallow that one with its message.
        raise ImportError(explain(fullname), name=fullname)


def explain_absent_parts() -> None:
    """Install the finder, once."""
    if not any(getattr(item, "__name__", "") == AbsentPartFinder.__name__ for item in sys.meta_path):
        sys.meta_path.append(AbsentPartFinder)
