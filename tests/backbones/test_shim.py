"""OpenAI's ``clip`` with and without pkg_resources, beside foreign packages of that name; in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HIDE = """
    import sys
    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name == "pkg_resources" or name.startswith("pkg_resources."):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Hide())
"""
NOT_INSTALLED = """
    import pathlib
    sys.path[:] = [p for p in sys.path if not list(pathlib.Path(p or ".").glob("openai_clip-*"))]
"""
USE = """
    import sys
    from advpt.backbones.shim import import_clip
    clip = import_clip()
    assert clip is import_clip()
    assert clip.tokenize(["a cat"]).shape == (1, 77)
    assert clip.clip._MODELS and clip.model.CLIP and clip.simple_tokenizer.SimpleTokenizer
    assert not [name for name in sys.modules if name == "clip" or name.startswith("clip.")]
"""
# What checkouts that descend from MaPLe carry: CLIP with one more argument, under OpenAI's names.
FOREIGN = {
    "__init__": "from .clip import *\n",
    "clip": "from .model import build_model\n__all__ = ['load', 'tokenize']\nload = tokenize = 'foreign'\n"
    "def _download(url):\n    return 'foreign file'\n",
    "model": "class CLIP:\n    def __init__(self, embed_dim, *sizes, design_details):\n        pass\n"
    "def build_model(state_dict, design_details):\n    return CLIP(1, design_details=design_details)\n",
    "simple_tokenizer": "class SimpleTokenizer:\n    pass\n",
}
# A package that looks like OpenAI's as far as its import goes, and needs no torch: tests of the import stay fast.
NEEDS_PACKAGING = {"__init__": "from pkg_resources import packaging\ntokenize = packaging.version.parse('1.0')\n"}


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    folders = [*map(str, path), str(REPOSITORY)]
    start = f"import sys\nsys.path[:0] = {folders!r}\n"
    program = start + "".join(textwrap.dedent(part) for part in code.split("---"))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def check(code: str, *path: Path) -> None:
    done = run(code, *path)
    assert done.returncode == 0, done.stderr


def package(folder: Path, name: str, modules: dict[str, str]) -> Path:
    (folder / name).mkdir(parents=True)
    for module, content in modules.items():
        (folder / name / f"{module}.py").write_text(content)
    return folder


def distribution(folder: Path, modules: dict[str, str], name: str = "openai-clip") -> Path:
    """A folder as pip leaves it: the package, and the distribution's metadata."""
    empty = dict.fromkeys(("__init__", "clip", "model", "simple_tokenizer"), "")
    package(folder, "clip", empty | modules)
    metadata = folder / f"{name.replace('-', '_')}-9.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n")
    return folder


def test_openais_package_without_pkg_resources() -> None:
    check(HIDE + "---" + USE + '---assert "pkg_resources" not in sys.modules')


def test_without_pkg_resources_nothing_fake_stays_behind(tmp_path: Path) -> None:
    after = """
        from advpt.backbones.shim import import_clip
        assert str(import_clip().tokenize) == "1.0"
        assert "pkg_resources" not in sys.modules
        try:
            import pkg_resources
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("a fake pkg_resources stayed behind")
    """
    check(HIDE + "---" + after, distribution(tmp_path, NEEDS_PACKAGING))


def test_with_pkg_resources_nothing_is_touched(tmp_path: Path) -> None:
    distribution(tmp_path, NEEDS_PACKAGING)
    package(tmp_path, "pkg_resources", {"__init__": "import packaging.version\n"})
    code = """
        import pkg_resources
        from advpt.backbones.shim import import_clip
        import_clip()
        assert sys.modules["pkg_resources"] is pkg_resources and pkg_resources.__file__
    """
    check(code, tmp_path)


def test_a_pkg_resources_without_packaging_is_put_back(tmp_path: Path) -> None:
    distribution(tmp_path, NEEDS_PACKAGING)
    package(tmp_path, "pkg_resources", {"__init__": "marker = 1\n"})
    code = """
        from advpt.backbones.shim import import_clip
        assert str(import_clip().tokenize) == "1.0"
        import pkg_resources
        assert pkg_resources.marker == 1
    """
    check(code, tmp_path)


def test_a_foreign_clip_that_is_imported_already_is_neither_used_nor_changed(tmp_path: Path) -> None:
    code = """
        from clip import clip as theirs
        import clip, clip.model, clip.simple_tokenizer
        before = {name: (id(module), dict(vars(module))) for name, module in sys.modules.items() if "clip" in name}
        assert set(before) == {"clip", "clip.clip", "clip.model", "clip.simple_tokenizer"}

        from advpt.backbones.load import load_backbone
        from advpt.backbones.shim import import_clip, offer_clip
        from advpt.settings import BackboneSettings
        demo = load_backbone(BackboneSettings("DemoCLIP", "", False))
        assert type(demo.model) is import_clip().model.CLIP is not clip.model.CLIP
        offer_clip("unused")

        for name, (module, content) in before.items():
            assert id(sys.modules[name]) == module and vars(sys.modules[name]) == content, name
        assert clip.load == clip.tokenize == "foreign" and theirs._download("x") == "foreign file"
    """
    check(code, package(tmp_path, "clip", FOREIGN))


def test_a_foreign_clip_first_on_the_path_is_what_the_host_imports_afterwards(tmp_path: Path) -> None:
    code = """
        from pathlib import Path
        from advpt.backbones.shim import offer_clip
        offer_clip(Path("unused"))
        import clip
        from clip import clip as theirs
        from clip.model import CLIP
        assert clip.__file__.startswith({folder!r}) and theirs.build_model({{}}, {{}}).__class__ is CLIP
    """
    check(USE + "---" + code.format(folder=str(tmp_path)), package(tmp_path, "clip", FOREIGN))


def test_another_program_of_the_name_on_pypi_and_a_foreign_distribution_are_passed_over(tmp_path: Path) -> None:
    other = distribution(tmp_path / "other", {}, name="clip")
    (other / "clip" / "simple_tokenizer.py").unlink()
    check(USE, other)


def test_an_editable_install_of_the_official_repository(tmp_path: Path) -> None:
    source = package(tmp_path / "source", "clip", {**FOREIGN, "__init__": "marker = 'official'\n"})
    installed = distribution(tmp_path / "installed", {}, name="clip")
    for file in (installed / "clip").iterdir():
        file.unlink()
    (installed / "clip").rmdir()
    (metadata,) = installed.glob("*.dist-info")
    (metadata / "direct_url.json").write_text(json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}}))
    code = """
        from advpt.backbones.shim import import_clip
        assert import_clip().marker == "official"
    """
    check("import sys\n---" + NOT_INSTALLED + "---" + code, installed)


@pytest.mark.parametrize("foreign", [True, False])
def test_not_installed_is_a_sentence_whatever_lies_on_the_path(tmp_path: Path, foreign: bool) -> None:
    path = [package(tmp_path, "clip", FOREIGN)] if foreign else []
    code = """
        from advpt.backbones.shim import import_clip, offer_clip
        offer_clip("unused")
        import_clip()
    """
    said = run("import sys\n---" + NOT_INSTALLED + "---" + code, *path).stderr
    assert "AdvPTError: OpenAI's CLIP is not installed" in said and "pip install openai-clip" in said, said


def test_a_broken_distribution_says_what_is_missing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    distribution(tmp_path, {"__init__": "from . import model\nimport no_such_module_anywhere\n"})
    code = """
        from advpt.backbones.shim import import_clip
        try:
            import_clip()
        finally:
            assert not [name for name in sys.modules if "clip" in name and name.startswith("advpt.backbones._")]
    """
    said = run(code, tmp_path).stderr
    assert "CLIP's model code in" in said and "no_such_module_anywhere" in said, said


def test_its_classes_are_pickled_under_the_private_name() -> None:
    code = """
        import pickle
        made = clip.model.CLIP(8, 16, 1, 64, 8, 77, 100, 64, 1, 1)
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is clip.model.CLIP and type(again).__module__ == "advpt.backbones._openai_clip.model"
    """
    check(USE + "---" + code)


def test_the_name_is_offered_to_trainers_written_for_coop(tmp_path: Path) -> None:
    code = """
        from pathlib import Path
        from advpt.backbones.shim import import_clip, offer_clip
        offer_clip(Path({root!r}))

        import clip as package
        from clip import clip
        from clip.simple_tokenizer import SimpleTokenizer as _Tokenizer

        assert _Tokenizer().encode("cat") and clip.tokenize("a cat").shape == (1, 77)
        assert package.clip is clip and package.load and package.available_models()
        url = clip._MODELS["RN50"]
        try:
            clip._download(url)
        except RuntimeError as error:
            assert "RN50.pt exists and is not a regular file" in str(error), error
        made = import_clip().model.CLIP(8, 16, 2, 64, 8, 77, 100, 64, 1, 1)
        assert type(clip.build_model(made.state_dict())) is import_clip().model.CLIP
        assert "pkg_resources" not in sys.modules
    """
    (tmp_path / "RN50.pt").mkdir()
    check(HIDE + "---" + code.format(root=str(tmp_path)))
