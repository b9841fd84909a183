"""Pictures of an attack show the images that the evaluation's bank was made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks import parse
from advpt.bank.build import Attacker
from advpt.bank.cache import BankCache
from advpt.evaluation.pictures import attacked_images
from advpt.prompts.classifier import Classifier


@pytest.mark.parametrize("text", ["pgd2-ce@8", "apgd-ce-t@2"])
def test_an_image_is_attacked_as_it_was_for_the_bank(text: str, tiny_clip, images, tmp_path: Path) -> None:
    """Whoever looks at its batch needs its whole batch."""
    pictures, attack, encode = images(7, 3), parse(text), tiny_clip.require_image()
    with torch.no_grad():
        seen = F.normalize(torch.cat([encode(b.pixels) for b in pictures.batches(range(7), 7)]), dim=-1)
    classifier = Classifier(F.normalize(torch.stack([seen[pictures.labels == k].mean(0) for k in range(3)])), 100.0)
    bank_cache = BankCache(tmp_path, tiny_clip, lambda: tiny_clip, chunk=4)
    bank = bank_cache.get(pictures, attack, classifier)
    assert bool(bank.columns["perturbed"].any())
    attacker, chosen = Attacker(attack.build(), encode, classifier, tiny_clip.device), {pictures.ids[i] for i in (1, 6)}
    found = list(attacked_images(attacker, pictures, chosen, 1 if attack.build().by_image else bank_cache.chunk, 0))
    assert [sample.id for sample, _, _ in found] == [pictures.ids[1], pictures.ids[6]]
    for (_, _, attacked), row in zip(found, (1, 6)):
        torch.testing.assert_close(encode(attacked)[0], bank.embeddings[row], atol=1e-5, rtol=1e-4)
