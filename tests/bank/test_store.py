"""Banks on disk: damage is found, and the digest of a bank sees its rows."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from advpt.bank.cache import AttackRequest
from advpt.errors import BankError, BankMismatchError
from tests.helpers.banks import CE, FKL, classifier, content_digest


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.98])
def test_a_flipped_byte_is_found(bank_cache, again, pictures, where):
    bank_cache.get(pictures, FKL)
    folder = bank_cache.folder(bank_cache.spec(AttackRequest(pictures, FKL)))
    shard = folder / "part-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[int(where * len(data))] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(BankError, match="damaged"):
        again().get(pictures, FKL)


def test_an_edited_manifest_is_found(bank_cache, again, pictures):
    bank_cache.get(pictures, FKL)
    folder = bank_cache.folder(bank_cache.spec(AttackRequest(pictures, FKL)))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["spec"]["adversarial_set"]["attack"]["eps"] = 4.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BankMismatchError, match="does not match its own key"):
        again().get(pictures, FKL)


def test_a_missing_or_foreign_shard_is_found(bank_cache, again, pictures):
    bank_cache.get(pictures, FKL)
    bank_cache.get(pictures, CE, classifier())
    folder = bank_cache.folder(bank_cache.spec(AttackRequest(pictures, FKL)))
    other = bank_cache.folder(bank_cache.spec(AttackRequest(pictures, CE, classifier())))
    shutil.copy(other / "part-00000.safetensors", folder / "part-00000.safetensors")
    with pytest.raises(BankMismatchError, match="belongs to bank"):
        again(verify=False).get(pictures, FKL)


def test_content_digest_sees_rows(bank_cache, pictures):
    a = bank_cache.get(pictures, FKL)
    b = dataclasses.replace(a, columns=dict(a.columns) | {"loss": a.columns["loss"] + 1})
    assert content_digest(a) == content_digest(bank_cache.get(pictures, FKL)) != content_digest(b)
