"""The rendered world: equal for equal seeds, in range, and captions that are true of what they say."""

from __future__ import annotations

import random
import re

import pytest
import torch

from advpt.data import rendered
from advpt.data.rendered import BACKGROUNDS, COLOURS, SIGNS, SIZES, Masks


@pytest.fixture(scope="module")
def masks() -> Masks:
    return rendered.draw_many(150, seed=4)


def test_equal_seeds_give_equal_masks(masks: Masks) -> None:
    again, other = rendered.draw_many(40, seed=4), rendered.draw_many(40, seed=5)
    assert torch.equal(again.pixels, masks.pixels[:40])  # more masks only follow
    assert torch.equal(again.sign, masks.sign[:40]) and torch.equal(again.large, masks.large[:40])
    assert not torch.equal(other.pixels, again.pixels)


def test_drawing_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    states = random.getstate(), torch.get_rng_state()
    rendered.sample_batch(rendered.draw_many(5, seed=0), 5, torch.Generator().manual_seed(0))
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_masks_show_something_and_have_the_shares_asked_for(masks: Masks) -> None:
    assert masks.pixels.dtype == torch.uint8 and masks.pixels.shape == (150, 32, 32)
    assert (masks.pixels.flatten(1).amax(1) > 50).all()
    assert 0.3 < (masks.sign < 10).float().mean() < 0.6
    assert 0.05 < (masks.sign >= 62).float().mean() < 0.3
    assert set(masks.large.tolist()) == {0, 1}
    digits = rendered.draw_many(20, seed=1, digit_share=1.0, word_share=0.0)
    assert (digits.sign < 10).all()


def test_large_signs_cover_more(masks: Masks) -> None:
    single = masks.sign < 62
    bright = masks.pixels.float().flatten(1).mean(1)
    assert bright[single & (masks.large == 1)].mean() > 1.15 * bright[single & (masks.large == 0)].mean()


def test_every_font_draws_every_sign() -> None:
    for face in rendered.fonts():
        for sign in SIGNS[::7]:
            mask, _ = rendered.draw(random.Random(0), sign.text, [face])
            assert mask.max() > 60, (face, sign.text)


def batch(masks: Masks, size: int = 64, seed: int = 0) -> rendered.Batch:
    return rendered.sample_batch(masks, size, torch.Generator().manual_seed(seed))


def test_batches_follow_the_generator_and_stay_in_range(masks: Masks) -> None:
    one, two, other = batch(masks), batch(masks), batch(masks, seed=1)
    assert torch.equal(one.images, two.images) and one.captions == two.captions and torch.equal(one.true, two.true)
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (64, 3, 32, 32) and one.images.dtype == torch.float32
    assert one.images.min() >= 0 and one.images.max() <= 1
    assert one.images.flatten(1).std(1).min() > 0.01


NOUNS = {noun: i for i, sign in enumerate(SIGNS) for noun in sign.nouns}


def named(caption: str) -> dict[str, object]:
    """The attributes a caption names, read from its words alone."""
    noun = max((n for n in NOUNS if re.search(rf"\b{n}\b", caption)), key=len)
    rest = re.sub(rf"\b{noun}\b", "", caption)
    facts: dict[str, object] = {"sign": NOUNS[noun]}
    for kind, names in (("ink", COLOURS), ("ground", BACKGROUNDS), ("size", SIZES)):
        found = [n for n in names if re.search(rf"\b{n}\b", rest)]
        assert len(found) <= 1
        if found:
            facts[kind] = found[0]
    return facts


def test_nouns_are_unambiguous() -> None:
    assert len(NOUNS) == sum(len(sign.nouns) for sign in SIGNS)
    assert len({sign.text for sign in SIGNS}) == len(SIGNS)


def test_true_and_false_captions(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix against attributes parsed from the texts; what was drawn is seen where it is painted."""
    painted: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = rendered.colour

    def spy(masks, ink, paper, generator):
        painted.append((ink, paper))
        return real(masks, ink, paper, generator)

    monkeypatch.setattr(rendered, "colour", spy)
    chosen: list[torch.Tensor] = []
    monkeypatch.setattr(rendered, "warp", lambda pixels, generator: chosen.append(pixels) or pixels)
    data = batch(masks, 200)
    ink, paper = painted[0]
    seen = []
    for row in range(200):
        (mask,) = (masks.pixels.float() / 255 == chosen[0][row]).flatten(1).all(1).nonzero()[0]
        seen.append(
            {
                "sign": int(masks.sign[mask]),
                "ink": next(n for n, rgb in COLOURS.items() if torch.equal(torch.tensor(rgb), ink[row])),
                "ground": next(n for n, rgb in BACKGROUNDS.items() if torch.equal(torch.tensor(rgb), paper[row])),
                "size": SIZES[int(masks.large[mask])],
            }
        )
    wanted = [named(caption) for caption in data.captions]
    expected = torch.tensor([[all(fact[k] == v for k, v in want.items()) for want in wanted] for fact in seen])
    assert torch.equal(data.true, expected)
    assert data.true.any(0).all() and data.true.any(1).all()
    assert data.true.sum() > 200  # some captions are true of several images
    assert len(set(data.captions)) == len(data.captions)


def test_all_captions_hold_every_caption_that_occurs(masks: Masks) -> None:
    language = rendered.all_captions()
    assert language == sorted(set(language))
    known = set(language)
    for seed in range(5):
        assert set(batch(masks, 64, seed).captions) <= known
