"""Adversarial images made elsewhere in whole runs, and what docs/migration.md shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import train
from advpt.cli import main as cli
from advpt.data.images import Preprocessing, read_image
from tests.helpers.workspace import NAMES, ROOT, Workspace, results

PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
ONE = ("EVAL.PROTOCOLS", "('transfer','adaptive')")


def brighter(workspace: Workspace, path: Path, by: int = 4) -> Path:
    """The workspace's test images, every pixel brighter by ``by`` of 255, with their ids."""
    top, ids, pixels = workspace.folder / "data", [], []
    for file in sorted((top / "tiny_photos" / "test").glob("*/*.png")):
        ids.append(file.relative_to(top).as_posix())
        pixels.append((read_image(file, Preprocessing((16, 16), "bicubic"))[0] + by / 255).clamp(0, 1))
    save_file({"images": torch.stack(pixels)}, path, metadata={"ids": json.dumps(ids)})
    return path


def test_a_run_under_images_made_elsewhere(workspace: Workspace) -> None:
    path = brighter(workspace, workspace.folder / "adv.safetensors")
    printed = workspace.run(*ONE, "EVAL.ATTACKS", f"('files:{path}@8','pgd2-ce@8')")
    assert "12 images within the budget of 8/255 in linf, the largest distance is 4.0000/255" in printed
    assert "what its maker knew: the images were made elsewhere" in printed
    (name,) = [name for name in results(workspace.output) if "files" in name]
    found = results(workspace.output)[name]
    assert re.fullmatch(r"test_transfer_files-[0-9a-f]{12}@8\.json", name)
    assert found["robust"]["largest_linf"] == pytest.approx(4, abs=1e-3) and found["attack"]["norm"] == "linf"
    assert str(workspace.folder) not in json.dumps(found), "a record holds the content's digest and no path"
    assert found["config"]["EVAL.ATTACKS"] == [found["attack"]["spec"], "pgd2-ce@8"]
    elsewhere = workspace.folder / "moved.safetensors"
    path.rename(elsewhere)
    workspace.run(*ONE, "EVAL.ATTACKS", f"('files:{elsewhere}@8','pgd2-ce@8')", output=workspace.folder / "again")
    assert results(workspace.folder / "again") == results(workspace.output)
    subset = ("EVAL.SUBSET", "6", "EVAL.ATTACKS", f"('files:{elsewhere}@8',)")
    workspace.run(*subset, trainer="ZeroshotCLIP", output=workspace.folder / "part")
    assert results(workspace.folder / "part")[name]["robust"]["n"] == 6


def test_other_images_at_the_same_place_are_another_evaluation(workspace: Workspace) -> None:
    path = brighter(workspace, workspace.folder / "adv.safetensors", by=2)
    words, again = ("EVAL.ATTACKS", f"('files:{path}@8',)"), ("--skip-done",)
    workspace.run(*words, trainer="ZeroshotCLIP")
    assert "done already" in workspace.run(*words, trainer="ZeroshotCLIP", flags=again)
    brighter(workspace, path, by=6)
    assert "done already" not in workspace.run(*words, trainer="ZeroshotCLIP", flags=again)
    found = [each["robust"]["largest_linf"] for each in results(workspace.output).values() if each["robust"]]
    assert max(found) == pytest.approx(6, abs=1e-3)
    path.unlink()
    code, printed = workspace.call(*words, trainer="ZeroshotCLIP", flags=again)
    assert code == 2 and f"there is nothing at {path}" in printed and "Traceback" not in printed


def test_what_is_refused_before_anything_is_loaded(workspace: Workspace) -> None:
    path = brighter(workspace, workspace.folder / "adv.safetensors")
    for n, (pairs, message) in enumerate((
        (("EVAL.ATTACKS", f"('files:{path}@8:adaptive',)"), "under adaptive: images made elsewhere are as they are"),
        (("EVAL.ATTACKS", f"('files:{path}',)"), "names no budget"),
        (("EVAL.ATTACKS", "('files:/nowhere@8',)"), "there is nothing at /nowhere"),
        (("BANK.ATTACK", f"files:{path}@8"), "can be evaluated (EVAL.ATTACKS), not trained on"),
    )):  # fmt: skip
        code, printed = workspace.call(*pairs, output=workspace.folder / f"run{n}")
        assert code == 2 and message in printed and "Traceback" not in printed
    code, printed = workspace.call("TRAINER.ADVTRAIN.ATTACK", f"files:{path}@8", trainer="AdvTrain")
    assert code == 2 and "TRAINER.ADVTRAIN.ATTACK is" in printed


def test_images_beyond_the_budget_end_the_run_with_a_sentence(workspace: Workspace) -> None:
    path = brighter(workspace, workspace.folder / "adv.safetensors", by=9)
    code, printed = workspace.call("EVAL.ATTACKS", f"('files:{path}@8',)", trainer="ZeroshotCLIP")
    assert code == 2 and "12 of 12 images are beyond the budget of 8/255 in linf: tiny_photos/test/" in printed


def commands(start: str) -> list[str]:
    return re.findall(rf"^    ({start}.*)$", PAGE, flags=re.MULTILINE)


def test_the_page_converts_their_test_images(workspace: Workspace, tmp_path: Path, monkeypatch, capsys) -> None:
    """The code block of the page on a file as theirs, then the page's own command on what it wrote."""
    monkeypatch.chdir(tmp_path)
    folder = Path("DATA/oxford_pets")
    (folder / "images").mkdir(parents=True)
    rng, split, theirs = np.random.default_rng(0), {"train": [], "val": [], "test": []}, []
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    for i in range(12):
        name = f"pet_{i}.jpg"
        Image.fromarray(rng.integers(0, 255, (18, 20, 3), dtype=np.uint8)).save(folder / "images" / name)
        part = ("train", "val", "test", "test")[i // 3]
        split[part].append([name, i % 3, NAMES[i % 3]])
        if part == "test":
            pixels = read_image(folder / "images" / name, Preprocessing((16, 16), "bicubic"))[0]
            change = torch.from_numpy(rng.uniform(-16, 16, pixels.shape)).float() / 255
            theirs.append(((pixels + change).clamp(0, 1) - mean) / std)
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
    torch.save(torch.stack(theirs), "oxford_pets_vit_b16_PGD.pkl")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {})  # noqa: S102 - the page's own

    (command,) = commands("python train.py")
    page = train.parse_args(shlex.split(command)[2:])
    words = workspace.argv(*page.opts, trainer="ZeroshotCLIP")
    words[words.index("--root") + 1] = "DATA"
    words[words.index("--dataset-config-file") + 1] = str(ROOT / "configs/datasets/pets.yaml")
    code, printed = workspace.call_words(words)
    assert code == 0, printed
    (found,) = results(workspace.output).values()
    assert 15 < found["robust"]["largest_linf"] <= 16.001 and found["robust"]["n"] == 6
    assert page.eval_only and page.model_dir == "RUN" and page.trainer == "AdvPT"
    for line in commands("python -m advpt attacks"):
        capsys.readouterr()
        assert cli(shlex.split(line)[3:]) == 0
        assert "= files:pets_pgd.safetensors@16: Files(" in capsys.readouterr().out


def test_the_names_on_the_page_exist() -> None:
    from dassl.config import get_cfg_default

    from advpt.attacks import parse
    from advpt.defenses import parse as parse_defense
    from advpt.settings import extend_cfg, leaves

    cfg = get_cfg_default()
    extend_cfg(cfg)
    known = {name for name, _ in leaves(cfg)}
    named = set(re.findall(r"\b((?:TRAINER|BANK|EVAL)\.[A-Z_.]+[A-Z_])\b", PAGE)) - {"TRAINER.COOP"}
    assert {"BANK.ATTACK", "EVAL.ATTACKS", "TRAINER.ADVPT.N_CTX"} <= named and named <= known
    for text in re.findall(r"`((?:pgd|rap|aa)\d*[^`.]*@[^`]+)`", PAGE):
        parse(text)
    assert parse_defense("super:advpt") and parse_defense("diffpure")
    trainers = {path.name for path in (ROOT / "configs" / "trainers").iterdir() if path.is_dir()}
    assert set(re.findall(r"--trainer (\w+)", PAGE)) <= trainers
