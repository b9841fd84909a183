"""Every leaf of the configuration, changed alone, changes the banks' keys, or changes no row of them, or is refused."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest
import torch
from dassl.config import get_cfg_default

from advpt.bank.store import MANIFEST, open_bank
from advpt.settings import extend_cfg, leaves
from tests.helpers.banks import content_digest
from tests.helpers.workspace import TINY, Workspace


def all_leaves() -> dict[str, object]:
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return dict(leaves(cfg))


LEAVES = all_leaves()
# Values that mean something, where turning a number or adding a letter would only be refused.
MEANINGFUL = {
    "INPUT.SIZE": "(24, 24)",
    "INPUT.INTERPOLATION": "bilinear",
    "INPUT.TRANSFORMS": "('random_flip',)",
    "DATASET.NUM_SHOTS": "2",
    "DATASET.SUBSAMPLE_CLASSES": "base",
    "BANK.ATTACK": "pgd2-fkl@5",
    "BANK.PROFILE": "released",
    "BANK.CHUNK": "3",
    "BANK.LIMIT": "6",
    "BANK.SEED": "1",
    "EVAL.ATTACKS": "('pgd3-fkl@8','pgd2-ce@4')",
    "EVAL.PROTOCOLS": "('adaptive',)",
    "EVAL.SUBSET": "6",
    "EVAL.SEED": "1",
    "TEST.SPLIT": "val",
    "TEST.FINAL_MODEL": "best_val",
    "OPTIM.NAME": "adam",
    "OPTIM.LR_SCHEDULER": "single_step",
    "OPTIM.WARMUP_TYPE": "linear",
    "OPTIM.MAX_EPOCH": "2",
    "SEED": "2",
    "TRAINER.ADVPT.CLASS_TOKEN_POSITION": "middle",
    "TRAINER.ADVPT.CTX_INIT": "a photo of",
    "TRAINER.ZEROSHOTCLIP.TEMPLATE": "a drawing of a {}.",
    "MODEL.BACKBONE.NAME": "other name",
    "TRAINER.ADVPT.PREC": "amp",
}
# Other trainers' leaves: all at once, as none of them is AdvPT's business.
OTHERS = {n for n in LEAVES if n.startswith("TRAINER.") and n.split(".")[1] not in ("NAME", "ADVPT", "ZEROSHOTCLIP")}
SEPARATE = {"OUTPUT_DIR", "BANK.DIR", "TRAINER.NAME", "DATASET.NAME", "MODEL.WEIGHTS", "DATASET.ROOT"}


def changed(name: str, value: object) -> str:
    if name in MEANINGFUL:
        return MEANINGFUL[name]
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int | float):
        return str(value + 1)
    if isinstance(value, list | tuple):
        return repr((*value, value[-1] if value else "x"))
    return f"{value}x"


def banks(folder: Path) -> dict[str, str]:
    found = [open_bank(path.parent, None, verify=True) for path in folder.glob(f"**/{MANIFEST}")]
    return {bank.key: content_digest(bank) for bank in found}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_file):
    torch.set_num_threads(1)
    workspace = Workspace(tmp_path_factory.mktemp("base"), tiny_file)
    workspace.run()
    found = banks(workspace.folder / "banks")
    assert len(found) == 5  # train; clean, fkl, ce on the hand-written prompt, ce on the learned one
    return workspace, found


def compare(workspace, base_banks, folder, *more, **how) -> tuple[int, set[str]]:
    """Run with fresh banks; rows of every key that the base run also has must be the base run's. Returns new keys."""
    code, printed = workspace.call("BANK.DIR", str(folder / "banks"), *more, output=folder / "run", **how)
    found = banks(folder / "banks")
    for key in found.keys() & base_banks.keys():
        assert found[key] == base_banks[key], f"{more}: the rows of bank {key[:12]} changed, its key did not\n{printed}"
    return code, set(found) - set(base_banks)


@pytest.mark.parametrize("name", sorted(set(LEAVES) - SEPARATE - OTHERS))
def test_key_or_rows(base, tmp_path, name, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # in seconds
    workspace, base_banks = base
    compare(workspace, base_banks, tmp_path, name, changed(name, LEAVES[name]))


def test_settings_of_other_trainers_change_nothing(base, tmp_path):
    workspace, base_banks = base
    pairs = [word for name in sorted(OTHERS) for word in (name, changed(name, LEAVES[name]))]
    code, new = compare(workspace, base_banks, tmp_path, *pairs)
    assert len(OTHERS) > 50 and code == 0 and not new


@pytest.mark.parametrize(
    "name",
    ["INPUT.INTERPOLATION", "BANK.ATTACK", "BANK.PROFILE", "BANK.CHUNK", "BANK.LIMIT", "BANK.SEED", "EVAL.ATTACKS",
     "EVAL.SUBSET", "EVAL.SEED", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES", "TRAINER.ZEROSHOTCLIP.TEMPLATE",
     "TEST.SPLIT", "SEED"],
)  # fmt: skip
def test_what_must_change_a_key_does(base, tmp_path, name):
    workspace, base_banks = base
    code, new = compare(workspace, base_banks, tmp_path, name, MEANINGFUL[name])
    assert code == 0 and new


def test_other_weights_change_every_key(base, tmp_path):
    from advpt.backbones.clip import build

    workspace, base_banks = base
    torch.manual_seed(7)
    torch.save(build(TINY).state_dict(), tmp_path / "other.pt")
    code, new = compare(workspace, base_banks, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "other.pt"))
    assert code == 0 and len(new) == 5


def test_another_place_changes_nothing(base, tmp_path):
    workspace, base_banks = base
    shutil.copytree(workspace.folder / "data", tmp_path / "moved")
    code, new = compare(workspace, base_banks, tmp_path, "DATASET.ROOT", str(tmp_path / "moved"))
    assert code == 0 and not new


def test_another_data_set_or_trainer_has_its_own_banks(base, tmp_path):
    workspace, base_banks = base
    code, new = compare(workspace, base_banks, tmp_path / "b", trainer="CoOp")
    assert code == 0 and len(new) == 1  # the adaptive attack on its prompt; the test banks are shared
    code, _ = compare(workspace, base_banks, tmp_path / "a", "DATASET.NAME", "TinyPhotosx")
    assert code != 0
