"""Families of models, by the example of docs/backbones.md: it is taken by its word."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from advpt.backbones.families import FAMILIES, family_of
from advpt.backbones.load import find_card, load_backbone
from advpt.errors import ConfigError, WeightsError
from advpt.settings import BackboneSettings
from tests.helpers.open_clip import VIT, changed, write_folder
from tests.helpers.workspace import ROOT, Workspace, results

PAGE = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
QUICK = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", "('pgd1-ce@8',)", "EVAL.SUBSET", "3",
         "DATASET.NUM_SHOTS", "1", "BANK.ATTACK", "pgd1-fkl@4")  # fmt: skip
LEFT_TO_THE_MODEL = ("INPUT.SIZE", "(0,0)", "INPUT.INTERPOLATION", "", "MODEL.WEIGHTS", "", "MODEL.ACTIVATION", "")


def blocks(section: str) -> dict[str, str]:
    """The examples below a heading, by the path in their first line."""
    inside = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0] + "\n"
    code = [textwrap.dedent(each).strip() for each in re.findall(r"(?:^ {4}.*\n|^\n)+", inside, flags=re.MULTILINE)]
    named = (re.fullmatch(r"# (\S+)\n(.*)", each, flags=re.DOTALL) for each in code)
    return {each[1]: each[2] + "\n" for each in named if each}


@pytest.fixture
def seeded() -> Iterator[None]:
    """The family of the page."""
    files = blocks("Add a family")
    assert list(files) == ["advpt/backbones/seeded.py", "advpt/backbones/__init__.py"]
    exec(compile(files["advpt/backbones/seeded.py"], "seeded.py", "exec"), {"__name__": "seeded"})
    yield
    FAMILIES.remove("seeded")


@pytest.mark.usefixtures("seeded")
def test_a_family_is_one_file(workspace: Workspace) -> None:
    one, other = (load_backbone(BackboneSettings(f"seeded:{seed}")) for seed in (1, 2))
    assert one.image_digest != other.image_digest and one.card == find_card("seeded:1")
    assert torch.equal(
        one.text.encode_texts(["a"]), load_backbone(BackboneSettings("seeded:1")).text.encode_texts(["a"])
    )
    with pytest.raises(WeightsError, match="seeded:1 has weights of its own"):
        load_backbone(BackboneSettings("seeded:1", "file.pt"))
    workspace.run("MODEL.BACKBONE.NAME", "seeded:1", *LEFT_TO_THE_MODEL, *QUICK, trainer="CoOp")
    result = next(iter(results(workspace.output).values()))
    assert result["backbone"]["name"] == "seeded:1" and result["config"]["INPUT.SIZE"] == [16, 16]
    assert result["backbone"]["source"] == {"kind": "seeded", "seed": "1"}
    assert family_of("seeded:1") is not None and family_of("seeded") is None


def test_without_its_file_a_family_is_a_name_that_nobody_knows() -> None:
    assert family_of("seeded:1") is None and find_card("seeded:1") is None and not list(FAMILIES)
    with pytest.raises(ConfigError):
        FAMILIES.get("seeded")


def test_a_model_is_one_yaml(workspace: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    folder = write_folder(tmp_path / "model", changed(VIT, vision={"image_size": 16}))
    ((path, text),) = blocks("Add a model").items()
    configs = tmp_path / "configs"
    (configs / "backbones").mkdir(parents=True)
    (configs / "trainers").symlink_to(ROOT / "configs" / "trainers")
    (tmp_path / path).write_text(text.replace("FOLDER", str(folder)))
    for trainer in ("AdvPT", "CoOp"):  # with a file for each backbone, and with one recipe
        flags = ("--config-file", str(configs / "trainers" / trainer / "mine.yaml"))
        words = ("MODEL.WEIGHTS", "", "MODEL.ACTIVATION", "", "DATALOADER.NUM_WORKERS", "0", *QUICK)
        output = tmp_path / trainer
        workspace.run(*words, trainer=trainer, flags=flags, output=output)
        result = next(iter(results(output).values()))
        assert result["backbone"]["name"] == f"local-dir:{folder}" and result["config"]["INPUT.SIZE"] == [16, 16]
        assert result["backbone"]["reads"]["text"]["activation"] == "gelu"
