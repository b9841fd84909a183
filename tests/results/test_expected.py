"""Numbers of this project's own."""

from __future__ import annotations

from advpt.backbones import democlip
from advpt.files import file_digest
from advpt.jobs.setup import DEMO
from advpt.results.expected import KnownModel, own_model, own_numbers


def test_numbers_are_by_data_set_model_attack_and_images() -> None:
    known = own_numbers("digits", "democlip", DEMO.pgd)
    assert {40, 200} == known.keys() and all(each.exact and each.images == n for n, each in known.items())
    assert (known[200].clean, known[200].robust) == (58.0, 39.0)
    assert not own_numbers("digits", "democlip", "pgd1-fkl@8") and not own_numbers("pets", "vit_b16", "pgd40-fkl@16")


def test_the_model_is_the_one_that_ships() -> None:
    model = own_model("democlip")
    assert model.file == file_digest(democlip.WEIGHTS) and model.image and model.text
    assert own_model("vit_b16") == KnownModel()
