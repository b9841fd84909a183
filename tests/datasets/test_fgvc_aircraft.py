"""FGVC-Aircraft reads its own lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.dataset_trees import Build, content, tree


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_aircraft_reads_its_own_lists(build: Build, tmp_path: Path) -> None:
    variants = ["707-320", "A300B4", "Boeing 717"]
    folder = tmp_path / "fgvc_aircraft"
    made = content([(f"{i}{{}}", variant) for i, variant in enumerate(variants)])
    tree(tmp_path, "FGVCAircraft", {part: [[f"{p}.jpg", n, v] for p, n, v in rows] for part, rows in made.items()})
    (folder / "variants.txt").write_text("\n".join(variants) + "\n")
    for part, rows in made.items():
        (folder / f"images_variant_{part}.txt").write_text("".join(f"{p} {v}\n" for p, _, v in rows))
    data = build("FGVCAircraft")
    assert data.classnames == variants
    assert [(Path(i.impath).name, i.label) for i in data.test] == [(f"{p}.jpg", n) for p, n, _ in made["test"]]
    assert data.comparable is False
    assert len(build("FGVCAircraft", shots=2).train_x) == 6
