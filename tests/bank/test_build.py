"""Building a bank: what its rows are, that nothing is computed twice, and what is never written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from advpt.bank import build as build_module
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.store import MANIFEST, open_bank, read_manifest
from advpt.errors import BankError
from advpt.files import canonical_json
from advpt.prompts.classifier import Classifier
from tests.helpers.banks import CE, FKL, classifier, make_clip, make_images


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_clean_rows_are_the_encoders_embeddings(bank_cache, pictures):
    bank = bank_cache.get(pictures)
    with torch.no_grad():
        expected = torch.cat([bank_cache.backbone.image(b.pixels) for b in pictures.batches(range(10), 4)])
    assert torch.equal(bank.embeddings, expected)
    assert list(bank.ids) == pictures.ids and torch.equal(bank.labels, pictures.labels)
    assert not bank.columns["perturbed"].any() and (bank.columns["clean_correct"] == -1).all()


def test_a_bank_says_the_versions_of_its_models_own_packages_alone(bank_cache, pictures, monkeypatch, tmp_path):
    def built_with(root: Path) -> dict[str, object]:
        BankCache(root, bank_cache.backbone, lambda: bank_cache.backbone).get(pictures)
        (manifest,) = root.rglob(MANIFEST)
        return read_manifest(manifest.parent)["built_with"]

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(__version__="1.0.31"))  # imported for something else
    assert "timm" not in built_with(tmp_path / "openai")
    monkeypatch.setattr(type(bank_cache.backbone), "packages", ("timm",))
    assert built_with(tmp_path / "timm")["timm"] == "1.0.31"


def test_attacked_rows_describe_the_attack(bank_cache, pictures):
    bank = bank_cache.get(pictures, CE, classifier())
    assert bank.columns["perturbed"].all()
    assert (bank.columns["linf"] <= 8.001).all() and (bank.columns["linf"] > 7).all()
    clean = bank_cache.get(pictures)
    correct = classifier().logits(clean.embeddings).argmax(1) == pictures.labels
    assert torch.equal(bank.columns["clean_correct"], correct.to(torch.int8))
    wrong = classifier().logits(bank.embeddings).argmax(1) != pictures.labels
    assert torch.equal(bank.columns["stage"] >= 0, wrong)
    losses = F.cross_entropy(classifier().logits(bank.embeddings), pictures.labels, reduction="none")
    torch.testing.assert_close(bank.columns["loss"], losses, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("attack", "passes"), [(None, 1), (FKL, 4), (CE, 4)])
def test_no_pass_through_the_encoder_is_repeated(bank_cache, pictures, clip_model, attack, passes):
    """Clean, two steps, and one pass at the result that serves the loss and the bank, for each of three chunks."""
    seen = []
    hook = clip_model.require_image().register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        features = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
        bank_cache.get(pictures, attack, Classifier(features, 10.0))
    finally:
        hook.remove()
    assert len(seen) == 3 * passes


def test_a_deleted_shard_is_built_again(bank_cache, again, pictures):
    """What every message about a damaged shard advises."""
    whole = bank_cache.get(pictures, FKL)
    shard = bank_cache.folder(bank_cache.spec(AttackRequest(pictures, FKL))) / "part-00000.safetensors"
    before = shard.read_bytes()
    shard.unlink()
    with pytest.raises(BankError, match="is missing"):
        open_bank(shard.parent, None, verify=True)
    assert torch.equal(again().get(pictures, FKL).embeddings, whole.embeddings)
    assert shard.read_bytes() == before


def test_a_non_finite_embedding_is_never_written(bank_cache, pictures, clip_model):
    broken = make_clip(5)
    with torch.no_grad():
        broken.image.visual.proj.fill_(float("nan"))
    bad = BankCache(bank_cache.root, broken, lambda: broken, chunk=4)
    with pytest.raises(BankError, match="not finite"):
        bad.get(pictures)
    assert not list(bank_cache.root.glob("**/*.safetensors"))


def test_workers_do_not_change_the_bits(tmp_path, clip_model):
    pictures = make_images(tmp_path / "images", 13)
    digests = set()
    for workers in (0, 2):
        bank_cache = BankCache(tmp_path / f"w{workers}", clip_model, lambda: clip_model, chunk=3, workers=workers)
        bank_cache.get(pictures, FKL)
        digests.add(
            canonical_json(
                {k: v.hex() for k, v in files(bank_cache.folder(bank_cache.spec(AttackRequest(pictures, FKL)))).items()}
            )
        )
    assert len(digests) == 1


def test_another_process_that_tidies_up_first_stops_nothing(bank_cache, pictures, monkeypatch):
    """Its last look at the folder of the locks and the removal by another one may meet."""

    class Removed(type(bank_cache.root)):
        def glob(self, pattern):
            raise FileNotFoundError(f"no such folder: {self}")

    where = build_module.lock_folder
    monkeypatch.setattr(build_module, "lock_folder", lambda *words: Removed(where(*words)))
    assert len(bank_cache.get(pictures)) == len(pictures)


def test_building_leaves_the_global_random_state_alone(bank_cache, pictures):
    torch.manual_seed(3)
    bank_cache.get(pictures, FKL)
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))
