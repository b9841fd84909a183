"""Who may import whom, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = sorted((REPOSITORY / "advpt").rglob("*.py"))
PLUGINS = sorted([*(REPOSITORY / "trainers").glob("*.py"), *(REPOSITORY / "datasets").glob("*.py")])

# From the ground up; a module may import its own layer and those below.
LAYERS = (
    (
        "errors",
        "version",
        "signals",
        "files",
        "checkpoints",
        "additions",
        "schema",
        "detectors",
        "cluster",
        "progress",
        "registry",
        "options",
    ),
    ("settings", "advice", "data"),
    ("backbones", "prompts", "losses"),
    ("attacks", "defenses"),
    ("bank",),
    ("test_time",),
    ("tuning", "evaluation"),
    ("model", "outside", "prediction", "robustness", "export"),
    ("results",),
    ("jobs",),
    ("cli", "__main__"),
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}
TOP_FLOOR = ("cli", "__main__")

# What CoOp-style plug-ins import from Dassl: any other name may be missing upstream.
DASSL = {
    "dassl.config": {"get_cfg_default", "clean_cfg", "cfg_default"},
    "dassl.engine": {"TRAINER_REGISTRY", "TrainerX", "build_trainer"},
    "dassl.optim": {"build_optimizer", "build_lr_scheduler"},
    "dassl.metrics": {"compute_accuracy"},
    "dassl.utils": {
        "AverageMeter",
        "MetricMeter",
        "setup_logger",
        "set_random_seed",
        "collect_env_info",
        "load_pretrained_weights",
        "load_checkpoint",
        "mkdir_if_missing",
        "listdir_nohidden",
        "read_json",
        "write_json",
        "check_isfile",
    },
    "dassl.data.datasets": {"DATASET_REGISTRY", "Datum", "DatasetBase"},
    "dassl.data": {"DataManager", "DatasetWrapper"},
    "dassl.data.transforms": {"build_transform", "INTERPOLATION_MODES"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(module, names, at the top of the file or for type checkers) of every import statement, relative ones
    resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            top |= set(map(id, node.body))
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, tuple(alias.name for alias in node.names), id(node) in top


MODULES = {module_name(path): path for path in LIBRARY}


def targets(module: str, names: tuple[str, ...]) -> set[str]:
    """The modules of the library that an import statement loads."""
    found = {f"{module}.{name}" for name in names if f"{module}.{name}" in MODULES}
    if module in MODULES and (not names or any(f"{module}.{name}" not in MODULES for name in names)):
        found.add(module)
    return found


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else "version"  # `advpt` itself only knows its version


def test_every_part_has_its_layer() -> None:
    assert len(LIBRARY) > 30
    unknown = {part(module) for module in MODULES} - LEVEL.keys()
    assert not unknown, f"give {unknown} a layer in this test and in the design"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "advpt"])
def test_a_module_imports_its_own_layer_or_those_below(module: str) -> None:
    for source, names, _ in imports(MODULES[module]):
        for target in targets(source, names):
            assert LEVEL[part(target)] <= LEVEL[part(module)], f"{module} imports {target}, which stands above it"
    if part(module) == "files":
        assert not any(target == "advpt.settings" for s, n, _ in imports(MODULES[module]) for target in targets(s, n))


def test_the_package_imports_what_people_use_of_it_when_they_ask_for_it() -> None:
    code = "import advpt, sys; print('torch' in sys.modules, advpt.zero_shot.__module__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["False", "advpt.model", "True"]
    import advpt

    assert set(advpt.__all__) <= set(dir(advpt)) and all(getattr(advpt, name) for name in advpt.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = advpt.lode


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) not in TOP_FLOOR])
def test_the_library_knows_no_trainer_no_dataset_and_no_dassl(module: str) -> None:
    for source, _, _ in imports(MODULES[module]):
        assert source.split(".")[0] not in ("trainers", "datasets", "dassl", "train"), f"{module} imports {source}"


PARTS = {
    *("resblocks", "ln_pre", "ln_post", "ln_final", "class_embedding", "positional_embedding", "token_embedding"),
    *("text_projection", "in_proj_weight", "trunk", "patch_embed", "encode_image", "encode_text"),
}
OF_BPE = {77, 49406, 49407, 49408}


@pytest.mark.parametrize(
    "path", [*(p for m, p in MODULES.items() if part(m) != "backbones"), *PLUGINS], ids=lambda p: p.stem
)
def test_backbones_alone_know_what_a_tower_is_made_of(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not PARTS & {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    numbers = {node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is int}
    assert not OF_BPE & numbers, "context and token ids are in the card"


EXTRAS = ("open_clip", "timm", "tokenizers", "transformers", "huggingface_hub", "onnx", "onnxscript", "onnxruntime")
SLOW = ("torchvision", "sklearn", "scipy.stats", "matplotlib")
IMPORT_ALL = f"""
import pkgutil, importlib, sys, advpt
for module in pkgutil.walk_packages(advpt.__path__, "advpt."):
    if module.name != "advpt.__main__":
        importlib.import_module(module.name)
print(sorted(set({EXTRAS + SLOW}) & set(sys.modules)))
"""


def test_no_module_brings_a_package_of_an_extra_or_one_that_is_slow_to_import() -> None:
    """open_clip alone takes seconds, torchvision one, and every command and every run is a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Every way from a module back to itself, one for each module where it closes."""
    found, done = [], set[str]()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            found.append(" -> ".join((*trail[trail.index(module) :], module)))
        elif module not in done:
            for target in sorted(graph[module]):
                # a package's __init__ that imports its own modules is entered before them, which is no cycle
                if not module.startswith(f"{target}."):
                    visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    return found


def test_no_cycles() -> None:
    graph = {
        module: {t for source, names, top in imports(path) if top for t in targets(source, names)} - {module}
        for module, path in MODULES.items()
    }
    assert cycles(graph) == []


def test_a_cycle_that_only_type_checkers_walk_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.REPOSITORY", tmp_path)
    path = tmp_path / "advpt" / "jobs" / "y.py"
    path.parent.mkdir(parents=True)
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from advpt.jobs.x import X\n")
    assert ("advpt.jobs.x", ("X",), True) in list(imports(path))
    assert cycles({"x": {"y"}, "y": {"x"}, "z": {"x"}}) == ["x -> y -> x"]


def test_no_cycles_between_packages_of_one_layer() -> None:
    edges = {
        (part(module), part(target))
        for module, path in MODULES.items()
        for source, names, _ in imports(path)
        for target in targets(source, names)
    }
    for one, other in edges:
        assert one == other or (other, one) not in edges, f"{one} and {other} import each other"


@pytest.mark.parametrize("path", [*LIBRARY, *PLUGINS], ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_no_star_imports(path: Path) -> None:
    assert not any("*" in names for _, names, _ in imports(path))


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) not in TOP_FLOOR])
def test_the_library_does_not_print(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"print", "breakpoint", "exec", "eval"}


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_plugins_use_only_what_every_dassl_has(path: Path) -> None:
    for source, names, _ in imports(path):
        if source.split(".")[0] == "dassl":
            assert names, f"{path.name}: write 'from {source} import ...'"
            assert set(names) <= DASSL.get(source, set()), f"{path.name} imports {names} from {source}"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_plugins_do_not_know_the_other_kind(path: Path) -> None:
    other = {"trainers": "datasets", "datasets": "trainers"}[path.parent.name]
    assert not any(source.split(".")[0] in (other, "train") for source, _, _ in imports(path))


def test_the_main_trainer_needs_the_library_and_dassl_alone() -> None:
    import sys

    known = set(sys.stdlib_module_names) | {"advpt", "dassl", "torch"}
    assert {source.split(".")[0] for source, _, _ in imports(REPOSITORY / "trainers" / "advpt.py")} <= known


def test_the_reader_of_imports_sees_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.REPOSITORY", tmp_path)
    path = tmp_path / "advpt" / "bank" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("import a.b\nfrom .y import c\nfrom .. import d\ndef f():\n    from e import *\n")
    assert list(imports(path)) == [
        ("a.b", (), True),
        ("advpt.bank.y", ("c",), True),
        ("advpt", ("d",), True),
        ("e", ("*",), False),
    ]
