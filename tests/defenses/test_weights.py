"""Weight files of defenses: where they are looked for, and that nothing in them is run."""

from __future__ import annotations

import math

import pytest
import torch

from advpt.defenses import edsr, parse
from advpt.errors import DefenseError, WeightsError
from tests.helpers.defenses import published_like


def test_missing_and_wrong_files_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    spec = parse("super:mustafa")
    for act in (spec.require, spec.build):
        with pytest.raises(WeightsError) as error:
            act()
        for part in (str(tmp_path / edsr.PUBLISHED.name), edsr.PUBLISHED.url, "1bc95232", "ADVPT_WEIGHTS"):
            assert part in str(error.value)
    torch.save(published_like(), tmp_path / edsr.PUBLISHED.name)
    with pytest.raises(WeightsError, match="expected 1bc95232"):
        spec.build()
    (tmp_path / "own.pt").write_bytes(b"no file of torch")
    with pytest.raises(WeightsError, match="cannot be read"):
        parse("super:mustafa/weights=own.pt").build()
    with pytest.raises(WeightsError, match="weights=none.pt"):
        parse("super:mustafa/weights=none.pt").require()


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (math.factorial, (3,))

    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    torch.save({"x": Trap()}, tmp_path / "own.pt")
    with pytest.raises((WeightsError, DefenseError), match="holds a pickled object"):
        parse("super:mustafa/weights=own.pt").build()
