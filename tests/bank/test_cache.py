"""Banks: found by key, refused when wrong, built once, rows by id."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest_bank import make_clip, make_images
from PIL import Image

from advpt.attacks import parse
from advpt.attacks.pgd import PGD
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache, check_images
from advpt.bank.defended_input import UNDEFENDED, DefendedInput, DefenseAwareForward
from advpt.bank.spec import differences
from advpt.bank.store import content_digest, open_bank
from advpt.defenses.spec import parse_all
from advpt.errors import BankError, BankMismatchError, DataError
from advpt.files import canonical_json
from advpt.prompts.classifier import Classifier

FKL, CE = parse("pgd2-fkl@8"), parse("pgd2-ce@8")


@pytest.fixture
def again(bank_cache):
    """The same shelf, opened by another process: nothing is remembered."""
    return lambda **how: dataclasses.replace(bank_cache, _open={}, built=[], **how)


def classifier(seed: int = 0) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    return Classifier(F.normalize(torch.randn(3, 32, generator=generator), dim=-1), 20.0)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_clean_rows_are_the_encoders_embeddings(bank_cache, pictures):
    bank = bank_cache.get(pictures)
    with torch.no_grad():
        expected = torch.cat([bank_cache.backbone.image(b.pixels) for b in pictures.batches(range(10), 4)])
    assert torch.equal(bank.embeddings, expected)
    assert list(bank.ids) == pictures.ids and torch.equal(bank.labels, pictures.labels)
    assert not bank.columns["perturbed"].any() and (bank.columns["clean_correct"] == -1).all()


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


def test_the_second_time_nothing_is_built(bank_cache, again, pictures, monkeypatch):
    bank_cache.get(pictures, FKL)
    monkeypatch.setattr(build_module, "write_shard", lambda *a: pytest.fail("built again"))
    second = again()
    assert len(second.get(pictures, FKL)) == 10
    assert len(bank_cache.built) == 1 and not second.built


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("attack.eps", lambda lib, img: (lib.spec(img, parse("pgd2-fkl@4/a5"), None, 0))),
        ("attack.steps", lambda lib, img: (lib.spec(img, parse("pgd3-fkl@8/a5"), None, 0))),
        ("attack.step", lambda lib, img: (lib.spec(img, parse("pgd2-fkl@8/a1"), None, 0))),
        ("attack.start", lambda lib, img: (lib.spec(img, parse("pgd2-fkl@8", "released"), None, 0))),
        ("seed", lambda lib, img: (lib.spec(img, FKL, None, 1))),
        ("data.n", lambda lib, img: (lib.spec(img.first(5), FKL, None, 0))),
        ("data.classnames", lambda lib, img: lib.spec(dataclasses.replace(img, classnames=("x", "y", "z")), FKL, None, 0)  # noqa: E501
         ),
        ("preprocessing.interpolation", lambda lib, img: lib.spec(
            dataclasses.replace(img, preprocessing=dataclasses.replace(img.preprocessing, interpolation="nearest")),
            FKL, None, 0)),
        ("attacked.image", lambda lib, img: dataclasses.replace(lib, backbone=make_clip(1)).spec(img, FKL, None, 0)),
        ("chunk", lambda lib, img: dataclasses.replace(lib, chunk=5).spec(img, FKL, None, 0)),
        ("attacked.text", lambda lib, img: lib.spec(img, CE, classifier(1), 0)),
    ],
)  # fmt: skip
def test_a_foreign_bank_is_refused_and_the_field_named(bank_cache, pictures, what, change):
    bank_cache.get(pictures, FKL)
    folder = bank_cache.folder(bank_cache.spec(pictures, FKL, None, 0))
    other = change(bank_cache, pictures)
    assert other.key != folder.name
    shutil.copytree(folder, bank_cache.folder(other))  # somebody put a bank in the wrong place
    with pytest.raises(BankMismatchError, match="cannot be used") as caught:
        open_bank(bank_cache.folder(other), other.fields(), verify=True)
    assert f"adversarial_set.{what}: the bank has" in str(caught.value)


def test_the_prompt_is_in_the_key_only_where_the_attack_sees_it(bank_cache, pictures):
    one, two = classifier(0), classifier(1)
    assert bank_cache.spec(pictures, FKL, one, 0).key == bank_cache.spec(pictures, FKL, two, 0).key
    assert bank_cache.spec(pictures, CE, one, 0).key != bank_cache.spec(pictures, CE, two, 0).key


def test_differences_name_nested_fields():
    lines = differences({"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}, "d": {"e": 1}})
    assert lines == ["a.c: the bank has 2, the run asks for 3", "d: the bank has None, the run asks for {'e': 1}"]


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.98])
def test_a_flipped_byte_is_found(bank_cache, again, pictures, where):
    bank_cache.get(pictures, FKL)
    folder = bank_cache.folder(bank_cache.spec(pictures, FKL, None, 0))
    shard = folder / "part-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[int(where * len(data))] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(BankError, match="damaged"):
        again().get(pictures, FKL)


def test_an_edited_manifest_is_found(bank_cache, again, pictures):
    bank_cache.get(pictures, FKL)
    folder = bank_cache.folder(bank_cache.spec(pictures, FKL, None, 0))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["spec"]["adversarial_set"]["attack"]["eps"] = 4.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BankMismatchError, match="does not match its own key"):
        again().get(pictures, FKL)


def test_a_missing_or_foreign_shard_is_found(bank_cache, again, pictures):
    bank_cache.get(pictures, FKL)
    bank_cache.get(pictures, CE, classifier())
    folder = bank_cache.folder(bank_cache.spec(pictures, FKL, None, 0))
    other = bank_cache.folder(bank_cache.spec(pictures, CE, classifier(), 0))
    shutil.copy(other / "part-00000.safetensors", folder / "part-00000.safetensors")
    with pytest.raises(BankMismatchError, match="belongs to bank"):
        again(verify=False).get(pictures, FKL)


def test_a_deleted_shard_is_built_again(bank_cache, again, pictures):
    """What every message about a damaged shard advises."""
    whole = bank_cache.get(pictures, FKL)
    shard = bank_cache.folder(bank_cache.spec(pictures, FKL, None, 0)) / "part-00000.safetensors"
    before = shard.read_bytes()
    shard.unlink()
    with pytest.raises(BankError, match="is missing"):
        open_bank(shard.parent, None, verify=True)
    assert torch.equal(again().get(pictures, FKL).embeddings, whole.embeddings)
    assert shard.read_bytes() == before


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
    asked = bank_cache.spec(few, FKL, None, 0)
    assert (rows.key, rows.spec) == (asked.key, asked.fields()) and bank_cache.read_from == {asked.key: full.key}
    assert rows.ids == (few.ids[0], few.ids[1], few.ids[2])
    assert torch.equal(rows.embeddings, full.embeddings[[7, 2, 4]])
    assert len(bank_cache.built) == 1


class OneAfterTheOther:
    """Reads images such that what it says of one depends on those before it."""

    by_image = False

    def __call__(self, pixels, ids, clean):
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
    bank_cache.get_all(pictures, CE, classifier(), 0, [seen], through)
    (rows,) = bank_cache.get_all(few, CE, classifier(), 0, [seen], through)
    own = bank_cache.spec(few, CE, classifier(), 0, seen, through).key
    assert len(bank_cache.built) == 2 and bank_cache.built[1] == rows.key == own and not bank_cache.read_from
    bank_cache.get(pictures)
    bank_cache.get(few)  # clean rows still are
    assert len(bank_cache.built) == 3 and list(bank_cache.read_from) == [bank_cache.spec(few, None, None, 0).key]


def test_a_larger_bank_of_other_files_is_not_used(bank_cache, pictures, caplog):
    bank_cache.get(pictures)
    few = pictures.first(4)
    Image.new("RGB", (20, 20), (9, 9, 9)).save(few.samples[2].path)
    rows = bank_cache.get(few)
    assert len(bank_cache.built) == 2 and not bank_cache.read_from and "not used: bank" in caplog.text
    fresh = torch.cat([bank_cache.backbone.image(b.pixels) for b in few.batches(range(4), 4)])
    assert torch.equal(rows.embeddings, fresh)


def test_without_a_full_bank_the_subset_gets_its_own(bank_cache, pictures):
    few = pictures.first(4)
    rows = bank_cache.get(few, FKL)
    full = bank_cache.get(pictures, FKL)
    assert rows.key != full.key and len(bank_cache.built) == 2
    torch.testing.assert_close(rows.embeddings, full.select(few.ids).embeddings, atol=1e-4, rtol=1e-3)


def test_rows_of_a_larger_bank_need_equal_labels_and_classes(bank_cache, pictures):
    bank_cache.get(pictures, FKL)
    few = pictures.first(3)
    relabelled = dataclasses.replace(
        few, samples=tuple(dataclasses.replace(s, label=(s.label + 1) % 3) for s in few.samples)
    )
    bank_cache.get(relabelled, FKL)
    bank_cache.get(dataclasses.replace(few, classnames=("a", "b", "c")), FKL)
    assert len(bank_cache.built) == 3


def test_rows_do_not_depend_on_the_order_of_the_list(bank_cache, again, pictures):
    a = bank_cache.get(pictures, FKL)
    turned = dataclasses.replace(pictures, samples=pictures.samples[::-1])
    b = again(root=bank_cache.root / "b").get(turned, FKL)
    torch.testing.assert_close(b.select(pictures.ids).embeddings, a.embeddings, atol=1e-4, rtol=1e-3)


def test_an_unknown_id_is_an_error(bank_cache, pictures):
    with pytest.raises(BankError, match="no row for nowhere.png"):
        bank_cache.get(pictures).select(["nowhere.png"])


def test_a_non_finite_embedding_is_never_written(bank_cache, pictures, clip_model):
    broken = make_clip(5)
    with torch.no_grad():
        broken.image.visual.proj.fill_(float("nan"))
    bad = BankCache(bank_cache.root, broken, lambda: broken, chunk=4)
    with pytest.raises(BankError, match="not finite"):
        bad.get(pictures)
    assert not list(bank_cache.root.glob("**/*.safetensors"))


def test_the_wrong_input_size_is_refused(bank_cache, pictures):
    other = dataclasses.replace(pictures, preprocessing=dataclasses.replace(pictures.preprocessing, size=(24, 24)))
    with pytest.raises(DataError, match="INPUT.SIZE"):
        bank_cache.get(other)


def test_workers_do_not_change_the_bits(tmp_path, clip_model):
    pictures = make_images(tmp_path / "images", 13)
    digests = set()
    for workers in (0, 2):
        bank_cache = BankCache(tmp_path / f"w{workers}", clip_model, lambda: clip_model, chunk=3, workers=workers)
        bank_cache.get(pictures, FKL)
        digests.add(
            canonical_json(
                {k: v.hex() for k, v in files(bank_cache.folder(bank_cache.spec(pictures, FKL, None, 0))).items()}
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


def test_content_digest_sees_rows(bank_cache, pictures):
    a = bank_cache.get(pictures, FKL)
    b = dataclasses.replace(a, columns=dict(a.columns) | {"loss": a.columns["loss"] + 1})
    assert content_digest(a) == content_digest(bank_cache.get(pictures, FKL)) != content_digest(b)
