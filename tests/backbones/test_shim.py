"""``import clip`` with and without pkg_resources, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HIDE = """
    import sys
    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name == "pkg_resources" or name.startswith("pkg_resources."):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Hide())
"""
USE = """
    import sys
    from advpt.backbones.shim import import_clip
    clip = import_clip()
    assert clip is import_clip() is sys.modules["clip"]
    assert clip.tokenize(["a cat"]).shape == (1, 77)
    assert clip.clip._MODELS and clip.model.CLIP
"""
# A package that looks like OpenAI's as far as its import goes, and needs no torch: tests of the import stay fast.
FAKE_CLIP = "from pkg_resources import packaging\ntokenize = packaging.version.parse('1.0')\n"


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    folders = [*map(str, path), str(REPOSITORY)]
    start = f"import sys\nsys.path[:0] = {folders!r}\n"
    program = start + "".join(textwrap.dedent(part) for part in code.split("---"))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def package(folder: Path, name: str, content: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(content)
    return folder


def check(code: str, *path: Path) -> None:
    done = run(code, *path)
    assert done.returncode == 0, done.stderr


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
    check(HIDE + "---" + after, package(tmp_path, "clip", FAKE_CLIP))


def test_with_pkg_resources_nothing_is_touched(tmp_path: Path) -> None:
    package(tmp_path, "clip", FAKE_CLIP)
    package(tmp_path, "pkg_resources", "import packaging.version\n")
    code = """
        import pkg_resources
        from advpt.backbones.shim import import_clip
        import_clip()
        assert sys.modules["pkg_resources"] is pkg_resources and pkg_resources.__file__
    """
    check(code, tmp_path)


def test_a_pkg_resources_without_packaging_is_put_back(tmp_path: Path) -> None:
    package(tmp_path, "clip", FAKE_CLIP)
    package(tmp_path, "pkg_resources", "marker = 1\n")
    code = """
        from advpt.backbones.shim import import_clip
        assert str(import_clip().tokenize) == "1.0"
        import pkg_resources
        assert pkg_resources.marker == 1
    """
    check(code, tmp_path)


def test_a_folder_that_is_only_called_clip(tmp_path: Path) -> None:
    for kind, folder in (("package", package(tmp_path / "a", "clip", "x = 1\n")), ("folder", tmp_path / "b")):
        (folder / "clip").mkdir(parents=True, exist_ok=True)
        blocker = "" if kind == "package" else "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        done = run(blocker + "from advpt.backbones.shim import import_clip\nimport_clip()\n", folder)
        assert "is not OpenAI's" in done.stderr and str(folder / "clip") in done.stderr, done.stderr


def test_no_clip_at_all(tmp_path: Path) -> None:
    code = """
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name == "clip":
                    raise ModuleNotFoundError("No module named 'clip'", name="clip")
        sys.meta_path.insert(0, Hide())
        from advpt.backbones.shim import import_clip
        import_clip()
    """
    assert "pip install openai-clip" in run(code).stderr


def test_a_broken_clip_says_what_is_missing(tmp_path: Path) -> None:
    package(tmp_path, "clip", "import no_such_module_anywhere\n")
    done = run("from advpt.backbones.shim import import_clip\nimport_clip()\n", tmp_path)
    assert "CLIP's model code cannot be imported" in done.stderr and "no_such_module_anywhere" in done.stderr
