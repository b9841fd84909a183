"""Names of image towers in plans: the same in every working folder, and marked by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.errors import ConfigError
from advpt.jobs import image_weights
from advpt.jobs.image_weights import absolute, fetch, mark
from advpt.jobs.zero_shot import Evaluation, plan_of
from tests.helpers.workspace import ROOT

COMMITS = "0123456789" * 4, "9876543210" * 4


def folders_of(name: str) -> str:
    """Where the run of a tower lies."""
    plan, _ = plan_of(Evaluation("vit_b32", (), image_weights=name), ["pets"], ROOT)
    return str(plan.jobs[0].folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reference of ``main`` in an empty cache of the hub, which is not written yet."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "models--a--b" / "refs" / "main"
    path.parent.mkdir(parents=True)
    return path


def test_names_of_files_and_folders_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute("towers/a.pt") == str(tmp_path / "towers" / "a.pt")
    assert absolute("~/a.pt") == str(tmp_path / "home" / "a.pt")
    assert absolute("local-dir:towers/a") == f"local-dir:{tmp_path / 'towers' / 'a'}"
    assert absolute("hf-hub:a/b@v1") == "hf-hub:a/b@v1" and absolute("") == ""
    with pytest.raises(ConfigError, match="did you mean hf-hub:a/b"):
        absolute("hf_hub:a/b")


def test_a_changed_folder_has_other_runs(tmp_path):
    name = f"local-dir:{tmp_path}"
    assert mark(name) == "" and mark(f"{name}/none") == ""
    runs = set()
    for file, text in (("open_clip_model.safetensors", "1"), ("open_clip_model.safetensors", "2"), ("config.json", "")):
        (tmp_path / file).write_text(text)
        runs.add(folders_of(name))
    assert len(runs) == 3, "weights, other weights, other configuration"
    (tmp_path / "README.md").write_text("words")
    assert folders_of(name) in runs


def test_a_revision_that_moved_has_other_runs(cache):
    runs = {folders_of("hf-hub:a/b")}
    for commit in COMMITS:
        cache.write_text(commit)
        assert mark("hf-hub:a/b") == mark("hf-hub:a/b/c.pt") == mark(f"hf-hub:a/b@{commit}") == commit[:8]
        runs.add(folders_of("hf-hub:a/b"))
    assert len(runs) == 3


def test_the_commit_is_there_before_the_plan(cache, monkeypatch):
    asked = []
    monkeypatch.setattr(image_weights.Repository, "fetch", lambda self, files: asked.append(files))
    monkeypatch.setattr(image_weights.find, "configured", lambda source, setting: asked.append(str(source)))
    for name in ("hf-hub:a/b/c.pt", "hf-hub:a/b", "a.pt", "local-dir:a", "", f"hf-hub:a/b@{COMMITS[0]}"):
        fetch(name)
    assert asked == [["c.pt"], "hf-hub:a/b"]
    cache.write_text(COMMITS[0])
    fetch("hf-hub:a/b")
    assert len(asked) == 2
