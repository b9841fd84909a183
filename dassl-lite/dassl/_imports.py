"""What importing ``dassl`` refuses: a second package of that name, and parts of upstream Dassl that are left out."""

import importlib.metadata
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
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
TRAINERS = """
    SE MCD MME ADDA CDAC DAEL DANN AdaBN M3SDA SourceOnly DDAIG DAELDG Vanilla CrossGrad DomainMix
    EntMin FixMatch MixMatch MeanTeacher SupBaseline
"""


def refuse_other_packages() -> None:
    """Raise when another ``dassl`` is on the path or installed.

    Raises:
        ImportError: naming each path and the two ways out.
    """
    others: list[Path] = []
    for entry in sys.path:
        spec = PathFinder.find_spec("dassl", [entry or "."])
        if spec is None or spec.origin is None:  # a plain folder has no origin
            continue
        path = Path(spec.origin).resolve()
        is_copy = (path.parent / "utils" / "safe_load.py").is_file()  # upstream has no such file
        if not is_copy and path not in others:
            others.append(path)
    if not others:
        try:
            others.append(Path(str(importlib.metadata.distribution("dassl").locate_file(""))).resolve())
        except importlib.metadata.PackageNotFoundError:
            return
    paths = "\n  ".join(str(path) for path in others)
    raise ImportError(
        f"dassl-lite (in {HERE}) will not shadow another package named 'dassl':\n  {paths}\n"
        "Keep one of the two: to use dassl-lite, `pip uninstall dassl` and take its folder off PYTHONPATH; "
        "to use the other one, `pip uninstall dassl-lite`."
    )


def explain(fullname: str) -> str:
    """One sentence on why ``fullname`` cannot be imported from this package."""
    parent, _, name = fullname.rpartition(".")
    if fullname == "dassl.utils.tpt_tools":
        return f"{fullname} belongs to PromptAlign's copy of Dassl, not to Dassl; it is not supported"
    if fullname in PARTS:
        return f"{fullname} ({PARTS[fullname]} of upstream Dassl) is not included in dassl-lite"
    if parent == "dassl.engine" and name in TRAINERS.split():
        return f"trainer {name!r} of upstream Dassl is not included in dassl-lite"
    if parent == "dassl.data.datasets" and name[:1].isupper():
        return f"dassl-lite has no dataset {name!r}: upstream's DA, DG and SSL datasets are not included"
    return f"dassl-lite has no {name!r} in {parent!r}: it is a subset of upstream Dassl"


class AbsentPartFinder:
    """Last finder on ``sys.meta_path``: reached only by names under ``dassl`` that no other finder knows."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.rpartition(".")[2]
        if not fullname.startswith("dassl.") or name.startswith("_"):
            return None
        # Not ModuleNotFoundError: `from package import name` would swallow that one with its message.
        raise ImportError(explain(fullname), name=fullname)
