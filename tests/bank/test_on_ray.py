"""Banks that workers of a cluster fill: what is sent to them."""

from __future__ import annotations

import importlib.util
import io
import sys

import pytest
import torch

from advpt.attacks import parse
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from advpt.bank.on_ray import pack, unpack
from advpt.errors import BankError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@needs_ray
def test_a_work_survives_its_journey(tmp_path, monkeypatch, tiny_clip, images):
    """Visual prompts, precision and defenses are closures and modules of many kinds; the spec travels too."""
    found = []
    monkeypatch.setattr(build_module, "write_manifest", lambda *a: None)
    banks = BankCache(
        tmp_path, tiny_clip, lambda: tiny_clip, chunk=2, precision="amp", visual=torch.zeros(1, 2, 64),
        fill=lambda work, bar: found.append(work) or {},
    )  # fmt: skip
    with pytest.raises(Exception, match="manifest"):
        banks.get(images(2, 2), parse("pgd1-fkl@8"))
    (work,) = found
    there = unpack(pack(work), torch.device("cpu"))
    assert [view.spec.key for view in there.targets] == [view.spec.key for view in work.targets]
    assert there.targets[0].folder.is_absolute() and there.shards == work.shards
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(there.targets[0].encode(x), work.targets[0].encode(x))
    batch = next(work.adversarial_set.images.batches(range(2), 2))
    one, two = (w.attacker(batch, work.adversarial_set.images.ids, 0)[0] for w in (work, there))
    assert torch.equal(one, two)


@needs_ray
@pytest.mark.parametrize("name", ["ViT", "SigLIP", "ConvNeXt"])
def test_towers_of_open_clip_travel_too(tmp_path, monkeypatch, name):
    """To a worker that has the extra; another one says what it lacks."""
    pytest.importorskip("open_clip")
    from tests.helpers.towers import make, pixels

    made = make(name)
    encode = {"encode": made.require_image(), "text": made.text}
    parcel = io.BytesIO()
    torch.save(encode, parcel, pickle_module=pytest.importorskip("cloudpickle"))
    there = torch.load(io.BytesIO(parcel.getvalue()), weights_only=False)
    x = pixels(made)
    with torch.no_grad():
        assert torch.equal(there["encode"](x), encode["encode"](x))
        assert torch.equal(there["text"].encode_texts(["cat"]), encode["text"].encode_texts(["cat"]))
    for module in [each for each in sys.modules if each.partition(".")[0] in ("open_clip", "timm")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_Without(("open_clip", "timm")), *sys.meta_path])
    with pytest.raises(BankError, match=r'need the package (open_clip|timm).*pip install "advpt\[openclip\]" on every'):
        unpack(parcel.getvalue(), torch.device("cpu"))


class _Without:
    """An import path on which some packages are not."""

    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
