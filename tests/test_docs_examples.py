"""Every example in Python of README.md and docs/ is run: those in a fence here, indented ones by the tests named here.

The blocks of a page are one program, run in a folder with what ``make demo`` leaves: a run on DemoCLIP and the digits.
The examples of docs/python.md and README.md run where the wheel and its dependencies are all there is. Weights and
pictures of others are not downloaded: where an example names ViT-B/16, DemoCLIP takes its place, and the networks of
docs/outside_models.md have random weights, RobustBench's a stand-in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import train
from tests.helpers.open_clip import VIT

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTSIDE = "outside_models.md"
OF_USERS = ("README.md", "docs/python.md")  # examples for those who have the library alone
INSTEAD = {'"ViT-B/16"': '"DemoCLIP"'}
# What the networks of docs/outside_models.md are without a download, and small.
RANDOM = {
    'pretrained="laion2b_s34b_b79k"': "pretrained=None",
    '"ViT-B-32"': '"tiny-clip"',
    "resnet18(weights=ResNet18_Weights.IMAGENET1K_V1)": "resnet18(weights=None)",
    '["categories"], 224': '["categories"], 32',
    '"pgd10-ce@1"': '"pgd1-ce@1"',
    '"apgd-ce-t@8"': '"pgd1-ce@8"',
}
# Indented examples, and the file of the tests that reads and runs them.
INDENTED = {
    "README.md": "tests/test_readme.py",
    "docs/backbones.md": "tests/backbones/test_families.py",
    "docs/outside_models.md": "tests/outside/test_evaluate_real.py",
    "docs/use.md": "tests/helpers/other_programs.py",
}
PYTHON = re.compile(r"^(?:from [\w.]+ )?import \w+", re.MULTILINE)
QUICK = ("DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "BANK.ATTACK", "pgd1-fkl@4",
         "EVAL.ATTACKS", "()", "EVAL.SUBSET", "10")  # fmt: skip


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fenced(text: str) -> str:
    """The blocks of a page in one program; none: ""."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def indented(text: str) -> list[str]:
    """Code by four spaces, in no fence, that imports something."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", outside, flags=re.MULTILINE)
    return [block for block in blocks if PYTHON.search(re.sub(r"^ {4}", "", block, flags=re.MULTILINE))]


def program(page: Path) -> str:
    code = fenced(page.read_text(encoding="utf-8"))
    for text, other in (INSTEAD | (RANDOM if page.name == OUTSIDE else {})).items():
        assert page.name != OUTSIDE or text not in RANDOM or text in code, f"{page.name} has no {text}"
        code = code.replace(text, other)
    return code


WITH_CODE = [page for page in PAGES if program(page)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A folder as ``make demo`` leaves it, with one short run."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("ADVPT_DATA", raising=False)
        words = ["--trainer", "AdvPT", "--output-dir", "output/demo/AdvPT/seed1", "--seed", "1", *QUICK]
        assert train.main(words) == 0
    shutil.rmtree(folder / "banks")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel of the sources, unpacked as ``pip install --no-deps`` does."""
    top = tmp_path_factory.mktemp("wheel")
    sources = top / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "advpt", sources / "advpt", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", code, str(top)]
    done = subprocess.run(words, cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = top.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(top / "site")
    return top / "site"


RUN = """
import json, sys
for name in ("yacs", "dassl", "trainers", "datasets", "train"):
    sys.modules[name] = None  # importing it fails
import torch
torch.set_num_threads(1)
import advpt
for name, code in json.load(sys.stdin).items():
    exec(compile(code, name, "exec"), {"__name__": "__main__"})
print("from", advpt.__file__)
"""


def dependencies() -> list[str]:
    """The folders of packages on the path, without the repository."""
    folders = [Path(each).resolve() for each in sys.path if each and Path(each).is_dir()]
    return [str(each) for each in folders if not each.is_relative_to(ROOT) or "site-packages" in each.parts]


def require_packages(code: str) -> None:
    for package in ("foolbox", "torchattack"):
        if f"import {package}" in code:
            pytest.importorskip(package)


def test_examples_run_where_the_wheel_is_all_there_is(demo, installed):
    code = {name: program(ROOT / name) for name in OF_USERS}
    require_packages(code["docs/python.md"])
    path = os.pathsep.join([str(installed), *dependencies()])
    done = subprocess.run(  # -S: no .pth file brings the repository
        [sys.executable, "-S", "-c", RUN], input=json.dumps(code), cwd=demo, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"from {installed / 'advpt' / '__init__.py'}" in done.stdout


def test_the_wheel_has_what_the_page_of_a_report_is_made_of(installed):
    assert all((installed / "advpt" / "results" / name).is_file() for name in ("page.html.j2", "page.js"))


def files_of_migration(folder: Path) -> None:
    """Adversarial images as the official repository leaves them."""
    torch.save(torch.randn(2, 3, 32, 32), folder / "oxford_pets_vit_b16_PGD.pkl")
    split = folder / "DATA" / "oxford_pets" / "split_zhou_OxfordPets.json"
    split.parent.mkdir(parents=True)
    split.write_text(json.dumps({"test": [["a.jpg", 0, "cat"], ["b.jpg", 1, "dog"]]}))


def models_of_others(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Photographs, a small architecture of open_clip's, and a stand-in for RobustBench, which is not installed: its
    ``load_model`` gives a network that is made here, with random weights."""
    open_clip = pytest.importorskip("open_clip")
    for i, name in enumerate(("photos/goldfish", "photos/tabby", "cifar10/test/cat", "cifar10/test/dog")):
        (folder / name).mkdir(parents=True)
        pixels = torch.arange(48 * 48 * 3).reshape(48, 48, 3).mul(i + 3).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / name / "0.png")
    (folder / "tiny-clip.json").write_text(json.dumps(VIT))
    patch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(folder / "tiny-clip.json")

    def load_model(name: str, dataset: str, threat_model: str) -> nn.Module:
        assert (dataset, threat_model) == ("cifar10", "Linf")
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        )

    stand_in = types.ModuleType("robustbench.utils", "A stand-in of tests/test_docs_examples.py.")
    stand_in.load_model = load_model
    patch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    patch.setitem(sys.modules, "robustbench.utils", stand_in)


PREPARED = {
    "docs/migration.md": lambda folder, patch: files_of_migration(folder),
    f"docs/{OUTSIDE}": models_of_others,
}


@pytest.mark.parametrize("page", [page for page in WITH_CODE if name_of(page) not in OF_USERS], ids=name_of)
def test_examples_of_other_pages_run(page, tmp_path, monkeypatch):
    PREPARED.get(name_of(page), lambda folder, patch: None)(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    exec(compile(program(page), name_of(page), "exec"), {"__name__": "__main__"})


def test_every_example_is_run_by_a_test():
    assert {"docs/python.md", "docs/migration.md"} <= {name_of(page) for page in WITH_CODE}
    for page in PAGES:
        if indented(page.read_text(encoding="utf-8")):
            assert name_of(page) in INDENTED, f"{name_of(page)}: put it into a fence, or name the test that runs it"
            test = ROOT / INDENTED[name_of(page)]
            assert page.name in test.read_text(encoding="utf-8"), f"{test} does not read {page.name}"


def test_examples_are_read_as_they_stand():
    text = "a\n\n```python\nx = 1\n```\n\n    import a\n    b\n\n    make demo\n\n```\n    import c\n```\n\n"
    text += "```python\ny = x\n```\n"
    assert fenced(text) == "x = 1\n\ny = x\n"
    assert len(indented(text)) == 1 and "import c" not in indented(text)[0]
