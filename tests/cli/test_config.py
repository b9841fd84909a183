"""The verb ``config``."""

from __future__ import annotations

from pathlib import Path

import pytest
from dassl.config import get_cfg_default

from advpt.cli import main
from advpt.settings import extend_cfg, merge_yaml, plain

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["AdvPT/democlip", "AdvPT/vit_b16", "AdvPT/rn50_ep50_ctxv1", "TAPTV/vit_b16"])
def test_a_flat_configuration_says_the_same_to_a_host_that_knows_no_base(capsys, tmp_path, name):
    path = ROOT / "configs/trainers" / f"{name}.yaml"
    assert main(["config", str(path)]) == 0
    flat = tmp_path / "flat.yaml"
    flat.write_text(capsys.readouterr().out)
    assert "_BASE_" not in flat.read_text()
    theirs, ours = get_cfg_default(), get_cfg_default()
    for cfg in (theirs, ours):
        extend_cfg(cfg)
    theirs.merge_from_file(str(flat))
    merge_yaml(ours, path)
    assert plain(theirs) == plain(ours) != plain(get_cfg_default())
