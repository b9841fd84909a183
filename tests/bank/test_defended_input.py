"""Banks of defended images: made in one attack pass, kept under a key of the whole chain."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.attacks.pgd import PGD
from advpt.bank import build as build_module
from advpt.bank.cache import AttackRequest, CacheState
from advpt.bank.defended_input import UNDEFENDED, DefendedInput, DefenseAwareForward
from advpt.defenses import parse as parse_defense
from advpt.defenses.base import DEFENSES
from advpt.defenses.chain import Chain
from advpt.defenses.diffpure import DiffPure
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution
from tests.helpers.banks import CE, FKL, classifier
from tests.helpers.defenses import CASES


def seen(text: str, seed: int | None = None) -> DefendedInput:
    return DefendedInput(parse_defense(text).build(), seed)


def again(bank_cache):
    return dataclasses.replace(bank_cache, state=CacheState())


@pytest.fixture
def attacks(monkeypatch):
    """Image ids... counted: how many images were attacked, batch by batch."""
    counted, real = [], PGD.run
    monkeypatch.setattr(PGD, "run", lambda self, f, x, y, noise: counted.append(len(x)) or real(self, f, x, y, noise))
    return counted


def test_one_attack_pass_serves_all_defenses(bank_cache, pictures, attacks):
    views = [UNDEFENDED, seen("super"), *(seen("rescale", s) for s in range(3)), seen("super+rescale", 0)]
    banks = bank_cache.get_all(AttackRequest(pictures, FKL), views)
    assert sum(attacks) == len(pictures) and len({bank.key for bank in banks}) == 6
    assert again(bank_cache).get(pictures, FKL).key == banks[0].key
    bank_cache.get_all(AttackRequest(pictures, FKL), views)
    assert sum(attacks) == len(pictures) and len(bank_cache.state.built) == 6
    bank_cache.get_all(AttackRequest(pictures, FKL), [*views, seen("super/sigma=0.1")])
    assert sum(attacks) == 2 * len(pictures) and len(bank_cache.state.built) == 7  # images are not kept: one more pass
    for name in ("perturbed", "linf", "loss", "label", "row", "file_hash"):
        assert all(torch.equal(bank.columns[name], banks[0].columns[name]) for bank in banks)


def test_rows_are_embeddings_of_defended_images(bank_cache, pictures):
    one = seen("super+rescale", 5)
    bank = bank_cache.get_all(AttackRequest(pictures), [one])[0]
    with torch.no_grad():
        for batch in pictures.batches(range(10), 10):
            noise = SampleNoise([f"defense {name}" for name in pictures.ids], 5)
            expected = bank_cache.backbone.image(one.chain(batch.pixels, noise))
    torch.testing.assert_close(bank.embeddings, expected, atol=1e-5, rtol=1e-4)


def test_the_chunk_does_not_change_what_an_image_draws(bank_cache, pictures):
    one = bank_cache.get_all(AttackRequest(pictures), [seen("rescale", 0)])[0]
    other = dataclasses.replace(again(bank_cache), chunk=3, root=bank_cache.root / "b")
    two = other.get_all(AttackRequest(pictures), [seen("rescale", 0)])[0]
    torch.testing.assert_close(one.embeddings, two.embeddings, atol=1e-5, rtol=1e-4)


def test_a_part_of_the_images_takes_rows_of_the_whole(bank_cache, pictures, attacks):
    whole = bank_cache.get_all(AttackRequest(pictures, FKL), [UNDEFENDED, seen("rescale", 0)])
    done = sum(attacks)
    part = again(bank_cache).get_all(AttackRequest(pictures.first(4), FKL), [UNDEFENDED, seen("rescale", 0)])
    assert sum(attacks) == done
    for a, b in zip(whole, part):
        assert torch.equal(a.select(b.ids).embeddings, b.embeddings)


def test_a_lost_shard_of_one_defense_is_made_again_alone(bank_cache, pictures, monkeypatch):
    monkeypatch.setattr(build_module, "SHARD_ROWS", 4)
    views = [UNDEFENDED, seen("rescale", 0)]
    before = bank_cache.get_all(AttackRequest(pictures, FKL), views)
    specs = [bank_cache.spec(AttackRequest(pictures, FKL), view) for view in views]
    (bank_cache.folder(specs[1]) / "part-00001.safetensors").unlink()
    written, real = [], build_module.write_shard
    monkeypatch.setattr(build_module, "write_shard", lambda *a: written.append(a[:2]) or real(*a))
    after = again(bank_cache).get_all(AttackRequest(pictures, FKL), views)
    assert written == [(bank_cache.folder(specs[1]), 1)]
    assert torch.equal(before[1].embeddings, after[1].embeddings)
    assert not (bank_cache.dataset_folder("tiny") / ".locks").exists()


def test_every_parameter_is_in_the_key(bank_cache, pictures):
    still = lambda x, i: x  # noqa: E731

    def diffpure(**how):
        return DefendedInput(Chain("d", (DiffPure(**{"t": 10, "model": still, "size": 16} | how),)), 0)

    views = [UNDEFENDED, seen("super"), seen("super/sigma=0.03"), seen("super/space=channel"), seen("rescale", 0),
             seen("rescale", 1), seen("rescale/fill=black", 0), seen("rescale/interp=bilinear", 0),
             seen("rescale/flip=True", 0), seen("rescale/low=1.05", 0), seen("rescale/canvas=1.3", 0),
             seen("super+rescale", 0), seen("rescale+super", 0), diffpure(), diffpure(t=11), diffpure(sampler="sde"),
             diffpure(stride=2), diffpure(dtype="bf16"), diffpure(size=32)]  # fmt: skip
    keys = {bank_cache.spec(AttackRequest(pictures, FKL), view).key for view in views}
    assert len(keys) == len(views)
    assert (
        bank_cache.spec(AttackRequest(pictures, FKL), seen("super")).key
        == bank_cache.spec(AttackRequest(pictures, FKL), views[1]).key
    )


def test_every_registered_defense_is_in_the_key(bank_cache, pictures):
    inputs = [UNDEFENDED, *(DefendedInput(Chain(d.name, (d,)), 0 if d.draws_noise else None) for d in CASES)]
    keys = [bank_cache.spec(AttackRequest(pictures, FKL), one).key for one in inputs]
    assert len(set(keys)) == len(keys) and {d.name for d in CASES} == set(DEFENSES)


def test_the_version_of_the_algorithm_is_in_the_key(bank_cache, pictures, monkeypatch):
    one = bank_cache.spec(AttackRequest(pictures), seen("rescale", 0)).key
    monkeypatch.setattr(RandomRescale, "version", 99)
    assert bank_cache.spec(AttackRequest(pictures), seen("rescale", 0)).key != one


def test_what_an_adaptive_attacker_does_is_in_the_key(bank_cache, pictures):
    chain = Chain("c", (SuperResolution(), RandomRescale()))
    known = [
        None,
        DefenseAwareForward(chain),
        DefenseAwareForward(chain, bpda=True),
        DefenseAwareForward(Chain("o", (RandomRescale(),))),
    ]
    attacks = [CE, CE.with_eot(3), CE.with_eot(4)]
    keys = {
        bank_cache.spec(AttackRequest(pictures, a, classifier(), 0, k), DefendedInput(chain, 0)).key
        for a in attacks
        for k in known
    }
    assert len(keys) == 12
    spec = bank_cache.spec(
        AttackRequest(pictures, CE, classifier(), 0, DefenseAwareForward(chain, bpda=True)), DefendedInput(chain, 0)
    )
    said = spec.adversarial_set.fields()["attacked"]["defense"]
    assert said["gradient"] == {"1 super": "straight through", "2 rescale": "own"}


def test_gradients_are_means_over_draws():
    """On a model without noise, more draws change nothing; every step makes so many forward passes."""
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    weight, calls = torch.randn(3 * 16 * 16, 3, generator=torch.Generator().manual_seed(0)), []

    def forward(pixels):
        calls.append(1)
        return pixels.flatten(1) @ weight

    found = []
    for draws in (1, 5):
        calls.clear()
        attack = parse("pgd3-ce@8").with_eot(draws).build()
        found.append(attack(forward, x, y, SampleNoise("abcd", 0)))
        assert len(calls) == 1 + 3 * draws + draws
    assert torch.equal(found[0].images, found[1].images)
    assert str(parse("pgd3-ce@8/eot5")) == str(parse("pgd3-ce@8").with_eot(5)) == "pgd3-ce@8/a6.667/eot5"
    assert parse("pgd3-ce@8/eot5").with_eot(7) == parse("pgd3-ce@8/eot5")
    assert parse("aa@8/every").with_eot(9) == parse("aa-rand@8/every")


def test_an_attacker_draws_anew_and_not_what_is_evaluated(bank_cache, pictures):
    draws = []

    class Watched(RandomRescale):
        def apply(self, pixels, noise):
            draws.append(noise.uniform(torch.zeros(len(pixels), 4), 0, 1))
            return pixels

    chain = Chain("w", (Watched(),))
    bank_cache.get_all(
        AttackRequest(pictures.first(3), CE.with_eot(2), classifier(), 0, DefenseAwareForward(chain)),
        [DefendedInput(chain, 0)],
    )
    assert len(draws) > 5
    flat = torch.stack([d[0] for d in draws])
    assert len(flat.unique(dim=0)) == len(draws)


def test_a_part_of_a_batch_can_be_attacked(clip_model):
    chain = Chain("r", (RandomRescale(),))
    forward = DefenseAwareForward(chain).encoder(clip_model.image, ["a", "b", "c"], 0)
    assert forward(torch.rand(3, 3, 16, 16)).shape == (3, 32)
    assert forward(torch.rand(2, 3, 16, 16)).shape == (2, 32)


def test_adaptive_attacks_reach_through_the_defense(bank_cache, pictures):
    """The loss behind the defense is larger than for images attacked without knowing it."""
    for text in ("super/sigma=0.2", "rescale"):
        view = seen(text, 0)
        attack = parse("pgd20-ce@8").with_eot(5 if view.chain.draws_noise else 1)
        prompt = classifier()
        blind = bank_cache.get_all(AttackRequest(pictures, attack, prompt), [view])[0]
        knowing = bank_cache.get_all(
            AttackRequest(pictures, attack, prompt, 0, DefenseAwareForward(view.chain)), [view]
        )[0]
        losses = [F.cross_entropy(prompt.logits(bank.embeddings), bank.labels) for bank in (blind, knowing)]
        assert losses[1] > losses[0] + 0.02, text
