"""The card beside records."""

from __future__ import annotations

import pytest

from advpt.errors import RecordError
from advpt.outside import card
from advpt.outside.evaluate import examine
from advpt.outside.model import OutsideModel
from advpt.outside.rules import Rule
from tests.helpers.outside import LooksAway, image_set, photos


def test_it_says_what_the_model_is_what_was_tried_and_what_that_covers(tmp_path):
    images, model = image_set(photos(tmp_path / "photos", per_class=2)), OutsideModel(LooksAway(), name="a | b")
    made = card.of(model, images, examine(model, images), Rule("memory", "after other images", "0"), "settings", [])
    card.write(made, tmp_path)
    assert card.read(tmp_path) == made and made.digest == model.digest and made.identity["code"]
    text = (tmp_path / card.TEXT).read_text()
    assert (
        "# a | b" in text
        and model.digest in text
        and "Not covered" in text
        and "by each image's pixels and seed 3" in text
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {3, 4}
    for words in (
        "pixels alone",
        "logits",
        "repeats (variant mirrored)",
        "by image (undefended)",
        "range",
        "at the end",
    ):
        assert any(line.startswith(f"| {words} |") for line in rows), words
    assert any("masked | 0 |" in line for line in rows), "the size of a gradient that leads nowhere"
    (tmp_path / card.FILE).write_text("{}")
    with pytest.raises(RecordError, match="outside_model.json is not a sound card: name is missing"):
        card.read(tmp_path)
