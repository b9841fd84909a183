"""A library of banks: each found by its key, refused when wrong, built once, rows by id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from advpt.attacks.pgd import PGD
from advpt.bank import build as build_module
from advpt.bank.cache import AttackRequest, check_images
from advpt.bank.defended_input import UNDEFENDED, DefendedInput, DefenseAwareForward
from advpt.defenses.spec import parse_all
from advpt.errors import BankError, BankMismatchError, DataError
from tests.helpers.banks import CE, FKL, classifier, make_clip


def test_the_second_time_nothing_is_built(bank_cache, again, pictures, monkeypatch):
    bank_cache.get(pictures, FKL)
    monkeypatch.setattr(build_module, "write_shard", lambda *a: pytest.fail("built again"))
    second = again()
    assert len(second.get(pictures, FKL)) == 10
    assert len(bank_cache.state.built) == 1 and not second.state.built


def test_a_changed_image_file_is_found(bank_cache, again, pictures):
    bank = bank_cache.get(pictures)
    path = Path(pictures.samples[3].path)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(path)
    with pytest.raises(BankMismatchError, match="file_hash"):
        again().get(pictures)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        check_images(bank, pictures)


def test_few_shot_rows_come_from_the_bank_of_the_full_split(bank_cache, pictures):
    full = bank_cache.get(pictures, FKL)
    few = dataclasses.replace(pictures, samples=tuple(pictures.samples[i] for i in (7, 2, 4)))
    rows = bank_cache.get(few, FKL)
    asked = bank_cache.spec(AttackRequest(few, FKL))
    assert (rows.key, rows.spec) == (asked.key, asked.fields()) and bank_cache.state.read_from == {asked.key: full.key}
    assert rows.ids == (few.ids[0], few.ids[1], few.ids[2])
    assert torch.equal(rows.embeddings, full.embeddings[[7, 2, 4]])
    assert len(bank_cache.state.built) == 1


class OneAfterTheOther:
    """Reads images such that what it says of one depends on those before it."""

    by_image = False

    def __call__(self, pixels, ids, clean, encode):
        return pixels.flatten(1)[:, :32].cumsum(0)

    def parameters(self):
        return {"name": "one after the other"}


@pytest.mark.parametrize("what", ["attack", "attacker", "reader"])
def test_rows_that_depend_on_their_neighbours_are_not_taken_from_a_larger_bank(bank_cache, pictures, what, monkeypatch):
    seen, through, few = UNDEFENDED, None, pictures.first(3)
    if what == "attack":
        monkeypatch.setattr(PGD, "by_image", False)
    if what == "attacker":
        through = DefenseAwareForward(parse_all(("rescale",))[0].build(torch.device("cpu")))
        monkeypatch.setattr(DefenseAwareForward, "by_image", False)
    if what == "reader":
        seen = DefendedInput(reader=OneAfterTheOther())
    bank_cache.get_all(AttackRequest(pictures, CE, classifier(), 0, through), [seen])
    (rows,) = bank_cache.get_all(AttackRequest(few, CE, classifier(), 0, through), [seen])
    own = bank_cache.spec(AttackRequest(few, CE, classifier(), 0, through), seen).key
    assert (
        len(bank_cache.state.built) == 2
        and bank_cache.state.built[1] == rows.key == own
        and not bank_cache.state.read_from
    )
    bank_cache.get(pictures)
    bank_cache.get(few)  # clean rows still are
    assert len(bank_cache.state.built) == 3 and list(bank_cache.state.read_from) == [
        bank_cache.spec(AttackRequest(few)).key
    ]


def test_a_larger_bank_of_other_files_is_not_used(bank_cache, pictures, caplog):
    bank_cache.get(pictures)
    few = pictures.first(4)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(few.samples[2].path)
    rows = bank_cache.get(few)
    assert len(bank_cache.state.built) == 2 and not bank_cache.state.read_from and "not used: bank" in caplog.text
    fresh = torch.cat([bank_cache.backbone.image(b.pixels) for b in few.batches(range(4), 4)])
    assert torch.equal(rows.embeddings, fresh)


def test_without_a_full_bank_the_subset_gets_its_own(bank_cache, pictures):
    few = pictures.first(4)
    rows = bank_cache.get(few, FKL)
    full = bank_cache.get(pictures, FKL)
    assert rows.key != full.key and len(bank_cache.state.built) == 2
    torch.testing.assert_close(rows.embeddings, full.select(few.ids).embeddings, atol=1e-4, rtol=1e-3)


def test_rows_of_a_larger_bank_need_equal_labels_and_classes(bank_cache, pictures):
    bank_cache.get(pictures, FKL)
    few = pictures.first(3)
    relabelled = dataclasses.replace(
        few, samples=tuple(dataclasses.replace(s, label=(s.label + 1) % 3) for s in few.samples)
    )
    bank_cache.get(relabelled, FKL)
    bank_cache.get(dataclasses.replace(few, classnames=("a", "b", "c")), FKL)
    assert len(bank_cache.state.built) == 3


def test_rows_do_not_depend_on_the_order_of_the_list(bank_cache, again, pictures):
    a = bank_cache.get(pictures, FKL)
    turned = dataclasses.replace(pictures, samples=pictures.samples[::-1])
    b = again(root=bank_cache.root / "b").get(turned, FKL)
    torch.testing.assert_close(b.select(pictures.ids).embeddings, a.embeddings, atol=1e-4, rtol=1e-3)


def test_an_unknown_id_is_an_error(bank_cache, pictures):
    with pytest.raises(BankError, match="no row for nowhere.png"):
        bank_cache.get(pictures).select(["nowhere.png"])


def test_the_wrong_input_size_is_refused(bank_cache, pictures):
    other = dataclasses.replace(pictures, preprocessing=dataclasses.replace(pictures.preprocessing, size=(24, 24)))
    with pytest.raises(DataError, match="INPUT.SIZE"):
        bank_cache.get(other)


def test_rows_are_not_taken_from_a_bank_of_another_protocol(bank_cache, again, pictures):
    full = bank_cache.get(pictures, FKL)
    few = dataclasses.replace(pictures.select([7, 2, 4]), protocol="tecoa")
    assert bank_cache.spec(AttackRequest(pictures, FKL)).key == full.key
    assert "protocol" not in full.spec["adversarial_set"]["data"], "keys of before stay what they were"
    second = again()
    torch.testing.assert_close(second.get(few, FKL).embeddings, full.embeddings[[7, 2, 4]])
    assert len(second.state.built) == 1 and not second.state.read_from
    third = again()
    third.get(pictures.select([7, 2, 4]), FKL)
    assert not third.state.built and list(third.state.read_from.values()) == [full.key]


def test_images_at_their_own_size_have_banks_of_their_own(bank_cache, pictures):
    small = dataclasses.replace(pictures, preprocessing=dataclasses.replace(pictures.preprocessing, size=(8, 8)))
    enlarging = bank_cache.at((8, 8))
    request = AttackRequest(small, CE, classifier())
    spec = enlarging.spec(request)
    assert spec.encoder != bank_cache.backbone.image_digest and spec.adversarial_set.attacked_image == spec.encoder
    bank = enlarging.get(small, CE, classifier())
    assert bank.key == spec.key and 0 < float(bank.columns["linf"].max()) <= CE.eps + 1e-3
    with pytest.raises(DataError, match=r"INPUT.SIZE is \(16, 16\), but tiny reads 8 x 8"):
        enlarging.get(pictures, CE, classifier())
    with pytest.raises(DataError, match=r"INPUT.SIZE is \(8, 8\), but tiny reads 16 x 16"):
        bank_cache.get(small, CE, classifier())


def test_a_released_encoder_is_loaded_again_to_enlarge_images(bank_cache, pictures):
    small = dataclasses.replace(pictures, preprocessing=dataclasses.replace(pictures.preprocessing, size=(8, 8)))
    loads = []
    cache = dataclasses.replace(bank_cache, backbone=make_clip(), load=lambda: loads.append(1) or make_clip())
    kept = cache.at((8, 8)).get(small).embeddings
    cache.backbone.release_image_encoder()
    released = dataclasses.replace(cache, root=cache.root / "others").at((8, 8))
    assert torch.equal(released.get(small).embeddings, kept) and loads == [1]
    released.get(small, FKL)
    assert loads == [1], "once for all banks"
