"""Defenses at test time in an evaluation: rows, the parts of an attacker who knows, and what is made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks import parse
from advpt.bank import cache
from advpt.bank.build import build_banks
from advpt.bank.cache import AttackRequest, BankCache
from advpt.data.images import ImageSet
from advpt.defenses.rescale import RandomRescale
from advpt.errors import ConfigError
from advpt.evaluation import test_time
from advpt.evaluation.evaluator import evaluate, summary
from advpt.evaluation.flags import own_attacks
from advpt.evaluation.measure import Measurer, Prompts
from advpt.evaluation.protocols import threats
from advpt.evaluation.record import Record, RunFacts
from advpt.evaluation.test_time import TestTimeTarget
from advpt.prompts.classifier import Classifier
from advpt.schema import to_json
from advpt.settings import EvalSettings
from advpt.test_time.base import TEST_TIME, Cost, DefendedModel, Draws, TestTimeDefense, Variant

FACTS = RunFacts(dataset="tiny", trainer="ZeroshotCLIP", seed=1, config={})


@dataclass(frozen=True)
class BlurSettings:
    share: float = 0.25
    masked: bool = False


@TEST_TIME.add
class Blur(TestTimeDefense):
    """The image a little nearer to its mean; ``masked``: its gradient is that of nothing."""

    name, profiles = "blur", {"sound": BlurSettings()}

    def classify(self, encode: Any, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        share = self.settings.share
        return self.model.classifier.logits(encode((1 - share) * pixels + share * pixels.mean((2, 3), keepdim=True)))

    def variants(self) -> tuple[Variant, ...]:
        about = {"name": "blur", "settings": dataclasses.asdict(self.settings), "text": self.model.classifier.digest}
        return Variant("own", self._own, about), Variant("plain", self._plain, {"name": "plain of blur"})

    def _own(self, encode: Any, pixels: Tensor, draws: Draws) -> Tensor:
        logits = self.classify(encode, pixels, draws, False)
        return logits.detach() + 0 * pixels.sum() if self.settings.masked else logits

    def _plain(self, encode: Any, pixels: Tensor, draws: Draws) -> Tensor:
        return self.model.classifier.logits(encode(pixels))

    def cost(self) -> Cost:
        return Cost()


TEST_TIME.remove("blur")


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    TEST_TIME.add(Blur)
    yield
    TEST_TIME.remove("blur")


@pytest.fixture
def prompts(bank_cache: BankCache, pictures: ImageSet) -> Prompts:
    """A prompt that knows the images by heart, and a model for defenses of it."""
    bank, clip = bank_cache.get(pictures), bank_cache.backbone
    e, wanted = F.normalize(bank.embeddings, dim=-1), F.one_hot(bank.labels, 3).float() - 1 / 3
    one = Classifier(F.normalize(torch.linalg.pinv(e) @ wanted, dim=0).T.contiguous(), 20.0)
    return Prompts(one, one, ("{}",), DefendedModel(one, clip.text, pictures.classnames, clip.card))


SETTINGS = EvalSettings(
    ("pgd2-ce@8",), ("static", "pseudo", "adaptive"), (), 0, 0, test_time=("blur",), adaptive_subset=6, queries=3, eot=1
)


def run(prompts: Prompts, images: ImageSet, bank_cache: BankCache, **changes: Any) -> list[Record]:
    return evaluate(prompts, images, bank_cache, dataclasses.replace(SETTINGS, **changes), FACTS)


def test_each_row_has_each_attacker_and_an_adaptive_number_is_the_worst_of_its_parts(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    records = run(
        prompts, pictures, bank_cache, defenses=("rescale",), defense_seeds=1, test_time=("blur", "rescale+blur")
    )
    by_name = {record.name: record.result for record in records}
    assert len(by_name) == len(records) == 3 * 4
    rows = {"", "_rescale-iclr", "_blur-sound", "_rescale-iclr+blur-sound"}
    assert {name.partition("@8-a8")[2].replace("_first6", "") for name in by_name} == rows
    for result in by_name.values():
        assert result.robust is not None and result.cost == {**dataclasses.asdict(Cost())}
        assert result.images.n == (6 if result.protocol in ("pseudo", "adaptive") else 10)
        if result.protocol != "adaptive":
            assert not result.robust.parts
            continue
        parts = {part.name: part for part in result.robust.parts}
        assert next(iter(parts)) == "static" and "Square" in parts or result.robust.correct == 0
        assert all(result.robust.correct <= part.correct for part in parts.values())
        assert "per image the worst of" in result.note
        if "blur" in result.defense_name:
            assert {"own, ce", "plain, ce"} <= set(parts) and not parts["own, ce"].left
            assert all(part.n <= 6 for part in parts.values()) and parts["own, ce"].gradient
            assert result.defense is not None and result.defense.gradient is not None
            assert result.attacker_knows is not None and result.attacker_knows.endswith("and the defense")
    assert all(record.observed.milliseconds for record in records)
    again = [Record.from_json(to_json(record.result), to_json(record.observed)) for record in records]
    assert [record.result for record in again] == [record.result for record in records]
    assert "behind blur:sound" in summary(records)


def test_the_static_part_is_the_static_attack_on_the_same_images(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    records = run(prompts, pictures, bank_cache, adaptive_subset=0)
    static, adaptive = (
        next(r.result.robust for r in records if r.result.protocol == protocol and r.result.defenses)
        for protocol in ("static", "adaptive")
    )
    assert static is not None and adaptive is not None
    assert adaptive.parts[0].bank == static.bank and adaptive.parts[0].correct == static.correct
    assert adaptive.bank == static.bank


def test_attacks_of_a_gradient_that_rows_share_are_made_once(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[tuple[str, int]] = []

    def build(work: Any, fill: Any) -> None:
        target = work.attacker.attack_target
        works.append((target.variant.name if target is not None else "", len(work.targets)))
        build_banks(work, fill)

    monkeypatch.setattr(cache, "build_banks", build)
    two = {"protocols": ("adaptive",), "queries": 0, "test_time": ("blur", "blur/share=0.5")}
    records = run(prompts, pictures, bank_cache, **two)
    assert [work for work in works if work[0] == "plain"] == [("plain", 2)] * 5, "on all images, for both rows"
    assert works[1] == ("", 3), "the static images are made once, for no defense as well"
    works.clear()
    again = run(prompts, pictures, bank_cache, **two)
    assert [record.id for record in again] == [record.id for record in records]
    assert not works, "all of it comes from banks"


def test_an_attack_can_start_from_the_static_images(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    static = parse("pgd2-ce@8")
    nothing = Variant("nothing", lambda encode, pixels, draws: 0 * pixels.flatten(1)[:, :3], {"name": "nothing"})
    embeddings = {}
    for name, target in (
        ("static", None),
        ("from", TestTimeTarget(nothing, start=static)),
        ("own", TestTimeTarget(nothing)),
    ):
        request = dataclasses.replace(_request(prompts, pictures, static), attack_target=target)
        embeddings[name] = bank_cache.get_all(request, [test_time.DefendedInput()])[0].embeddings
    assert torch.equal(embeddings["from"], embeddings["static"]), "without a gradient it stays where it started"
    assert not torch.equal(embeddings["own"], embeddings["static"])


def _request(prompts: Prompts, images: ImageSet, attack: Any) -> Any:
    return AttackRequest(images, attack, prompts.learned, 0)


def test_pseudo_labels_are_the_undefended_models_and_never_make_a_wrong_image_right(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    wrong = dataclasses.replace(
        pictures, samples=tuple(dataclasses.replace(s, label=(s.label + 1) % 3) for s in pictures.samples)
    )
    for record in run(prompts, wrong, bank_cache, protocols=("pseudo",), adaptive_subset=0):
        result = record.result
        assert result.robust is not None and result.robust.correct == 0 == result.clean.correct
    static = bank_cache.get_all(_request(prompts, wrong, parse("pgd2-ce@8")), [test_time.DefendedInput()])[0]
    request = dataclasses.replace(_request(prompts, wrong, parse("pgd2-ce@8")), predicted_labels=True)
    pseudo = bank_cache.get_all(request, [test_time.DefendedInput()])[0]
    true = bank_cache.get_all(_request(prompts, pictures, parse("pgd2-ce@8")), [test_time.DefendedInput()])[0]
    assert not torch.equal(pseudo.embeddings, static.embeddings), "the given labels are not the attack's"
    assert torch.equal(pseudo.embeddings, true.embeddings), "predictions are the true labels of these images"
    assert pseudo.spec["adversarial_set"]["labels"] == "predicted" and "labels" not in true.spec["adversarial_set"]


def test_draws_of_an_attacker_can_be_fixed(clip_model: Any) -> None:
    noisy = Variant(
        "noisy", lambda encode, pixels, draws: draws.noise("x").normal(pixels).flatten(1)[:, :3], {"name": "n"}
    )
    x, ids = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]), ["a", "b"]
    free = TestTimeTarget(noisy).encoder(lambda p: p, ids, 0, x)
    assert not torch.equal(free(x), free(x))
    fixed, other = (TestTimeTarget(noisy, fixed_draws=1).encoder(lambda p: p, ids, seed, x) for seed in (0, 1))
    assert torch.equal(fixed(x), fixed(x)) and not torch.equal(fixed(x), other(x))
    assert torch.equal(fixed(x)[1:], fixed(x[1:])), "by image, whichever are left"
    near = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert test_time.rows_of(near[[1, 0, 1]], x) == [1, 0, 1]
    several = TestTimeTarget(noisy, fixed_draws=3).encoder(lambda p: p, ids, 0, x)
    assert torch.equal(several(x), several(x)) and not torch.equal(several(x), fixed(x).log_softmax(-1))


def test_a_gradient_that_says_nothing_is_flagged(bank_cache: BankCache, pictures: ImageSet, prompts: Prompts) -> None:
    flags = {}
    for text in ("blur", "blur/masked=True"):
        record = run(prompts, pictures, bank_cache, protocols=("adaptive",), test_time=(text,))[-1]
        assert record.result.robust is not None
        flags[text] = record.result.flags
        sizes = {part.name: part.gradient for part in record.result.robust.parts}
    assert sizes["own, ce"] == 0 and (sizes["plain, ce"] or 0) == pytest.approx(1)
    assert "gradient vanishes" in flags["blur/masked=True"] and "gradient vanishes" not in flags["blur"]


def test_attackers_that_cannot_go_through_are_refused() -> None:
    test_time.check(SETTINGS)
    with pytest.raises(ConfigError, match="EVAL.EOT"):
        test_time.check(dataclasses.replace(SETTINGS, attacks=("aa-rand@4:adaptive",)))
    test_time.check(dataclasses.replace(SETTINGS, attacks=("aa-rand@4:static",)))
    with pytest.raises(ConfigError, match="Did you mean 'blur'"):
        test_time.check(dataclasses.replace(SETTINGS, test_time=("blurr",)))


def test_an_evaluation_without_a_model_says_so(bank_cache: BankCache, pictures: ImageSet, prompts: Prompts) -> None:
    with pytest.raises(ConfigError, match="no model to defend"):
        run(dataclasses.replace(prompts, model=None), pictures, bank_cache)


def test_without_defenses_at_test_time_nothing_is_added(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    (record,) = run(prompts, pictures, bank_cache, test_time=(), protocols=("adaptive",))
    assert record.result.robust is not None and not record.result.robust.parts and record.result.images.n == 10
    assert record.result.cost is None and record.observed.milliseconds is None


def test_autoattack_goes_through_every_gradient_with_fixed_draws(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    record = run(prompts, pictures, bank_cache, protocols=("adaptive",), attacks=("apgd-ce2@8",))[-1]
    assert record.result.robust is not None and record.result.attack is not None
    assert {part.attack for part in record.result.robust.parts} <= {
        "apgd-ce2@8",
        "apgd-ce2@8/every",
    } or record.result.robust.correct == 0
    assert record.result.attack.spec == "apgd-ce2@8"


def test_surrogates_have_no_pseudo_labels(bank_cache: BankCache, prompts: Prompts, pictures: ImageSet) -> None:
    measurer = Measurer(prompts, bank_cache, SETTINGS)
    (own,) = threats(("rap2@8",), ("pseudo",))
    assert own.protocol == "pseudo" and not measurer.request(pictures, own).predicted_labels
    (other,) = threats(("pgd2-ce@8",), ("pseudo",))
    assert measurer.request(pictures, other).predicted_labels


def test_costly_defenses_keep_their_part_of_the_images(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomRescale, "costly", True)
    costly = {"defenses": ("rescale",), "defense_seeds": 1, "costly_subset": 4, "test_time": ("blur", "rescale+blur")}
    for subset in (2, 0):
        records = run(prompts, pictures, bank_cache, adaptive_subset=subset, queries=0, **costly)
        names = [record.name for record in records]
        assert len(names) == len(set(names))
        sizes = {(r.result.protocol, r.result.defense_name): set() for r in records}
        for record in records:
            sizes[record.result.protocol, record.result.defense_name].add(record.result.images.n)
        assert sizes["static", ""] == {10, 4} and sizes["static", "blur:sound"] == {10}
        assert sizes["static", "rescale:iclr"] == sizes["static", "rescale:iclr+blur:sound"] == {4}
        assert sizes["adaptive", "rescale:iclr"] == {subset or 4} and sizes["adaptive", "blur:sound"] == {subset or 10}
        assert sizes["adaptive", ""] == ({2} if subset else {10, 4})


def test_nothing_comes_twice_where_no_attack_is_asked(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    records = run(prompts, pictures, bank_cache, attacks=(), adaptive_subset=0)
    assert sorted(r.name for r in records) == ["train_clean", "train_clean_blur-sound"]


def test_records_say_which_draw_gave_which_number(bank_cache: BankCache, pictures: ImageSet, prompts: Prompts) -> None:
    records = run(prompts, pictures, bank_cache, test_time=("mean/views=2",), protocols=("static",), defense_seeds=2)
    robust = records[-1].result.robust
    assert robust is not None and [draw.seed for draw in robust.defense_seeds] == [0, 1]
    assert robust.deviation is not None


def test_an_undefended_gradient_is_no_attack_through_the_defense(
    bank_cache: BankCache, pictures: ImageSet, prompts: Prompts
) -> None:
    record = run(prompts, pictures, bank_cache, test_time=("anti-adversaries/alpha=2",), protocols=("adaptive",))[-1]
    robust = record.result.robust
    assert robust is not None
    names = {part.name for part in own_attacks(robust.parts)}
    assert names == {"frozen delta, ce"} and "plain, ce" not in {part.name for part in robust.parts}
    undefended = [part for part in robust.parts if part.undefended]
    assert all(part.name.startswith("plain") for part in undefended)


def test_one_class_cannot_be_attacked(bank_cache: BankCache, pictures: ImageSet, prompts: Prompts) -> None:
    samples = tuple(dataclasses.replace(sample, label=0) for sample in pictures.samples)
    one = dataclasses.replace(pictures, samples=samples, classnames=("a",))
    learned = Classifier(prompts.learned.features[:1], 20.0)
    assert prompts.model is not None
    model = dataclasses.replace(prompts.model, classifier=learned, classnames=("a",))
    single = Prompts(learned, learned, ("{}",), model)
    record = run(single, one, bank_cache, protocols=("adaptive",))[-1]
    assert record.result.robust is not None and record.result.robust.accuracy == 100
    assert [part.name for part in record.result.robust.parts] == ["static"]


def test_votes_may_be_equal(bank_cache: BankCache, pictures: ImageSet, prompts: Prompts) -> None:
    records = run(prompts, pictures, bank_cache, test_time=("zero/views=3/gamma=0.4",), protocols=("static",))
    assert not [line for record in records for line in record.result.warnings if "bit by bit" in line]
