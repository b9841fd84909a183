"""Who knows what: which attacks a protocol makes of a text, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.errors import ConfigError
from advpt.evaluation.protocols import KNOWS, KNOWS_NOTHING, NOT_KNOWN, threats


def labels(found) -> list[str]:
    return [t.label for t in found]


# --- which threats ------------------------------------------------------------------------------------------------


def test_every_attack_under_every_protocol() -> None:
    found = threats(["pgd40-ce@8", "aa@8"], ["transfer", "transfer-all", "adaptive"])
    assert labels(found) == [
        "transfer pgd40-ce@8/a0.5",
        "transfer aa@8",
        "transfer-all pgd40-ce@8/a0.5",
        "transfer-all aa@8/every",
        "adaptive pgd40-ce@8/a0.5",
        "adaptive aa@8",
    ]
    assert [t.knows for t in found[::2]] == [KNOWS["transfer"], KNOWS["transfer-all"], KNOWS["adaptive"]]
    assert "the images of transfer" in found[2].note and not found[3].note


def test_an_attack_may_name_its_only_protocol() -> None:
    found = threats(["pgd40-ce@8", "aa@8:transfer-all", "apgd-ce-t@4:adaptive"], ["transfer", "adaptive"])
    assert labels(found) == [
        "transfer pgd40-ce@8/a0.5",
        "adaptive pgd40-ce@8/a0.5",
        "adaptive apgd-ce-t@4",
        "transfer-all aa@8/every",
    ]
    assert labels(threats(["aa@8:adaptive"], ["transfer"])) == ["adaptive aa@8"]


def test_budgets_make_a_curve() -> None:
    assert labels(threats(["pgd40-ce@1,2,4:adaptive"], [])) == [
        f"adaptive pgd40-ce@{e}/a{s}" for e, s in ((1, 0.0625), (2, 0.125), (4, 0.25))
    ]


def test_objectives_without_labels_are_replaced_where_the_prompt_is_known() -> None:
    found = threats(["pgd40-fkl@16/mi", "pgd40-ce@16/mi", "pgd40-kl@16"], ["adaptive"])
    assert labels(found) == ["adaptive pgd40-ce@16/a1/mi", "adaptive pgd40-ce@16/a1"]
    assert "objective fkl replaced by ce" in found[0].note and "kl replaced" in found[1].note
    assert labels(threats(["pgd40-fkl@16", "pgd40-ce@16"], ["adaptive"])) == ["adaptive pgd40-ce@16/a1"]


def test_an_attack_through_another_network_comes_once() -> None:
    (found,) = threats(["rap8@16"], ["transfer", "transfer-all", "adaptive"])
    assert found.protocol == "transfer" and found.knows == KNOWS_NOTHING
    assert found.note == "it goes through a surrogate network, which has no prompt to adapt to"
    (alone,) = threats(["rap8@16"], ["adaptive"])
    assert alone.protocol == "adaptive" and alone.note.startswith("adaptive is the same as transfer: ")


@pytest.mark.parametrize(
    ("text", "says"),
    (
        ("aa@8:adaptve", "attack 'aa@8:adaptve': unknown protocol 'adaptve'. Did you mean 'adaptive'"),
        ("aa@8:", "unknown protocol ''"),
        ("aaa@8:transfer", "unknown attack 'aaa'. Did you mean 'aa'"),
        ("aa", r"is not of the form NAME\[STEPS\].*aa@16"),
    ),
)
def test_mistakes_show_what_was_meant(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        threats([text], ["transfer"])


def test_images_made_elsewhere_come_once_under_transfer(tmp_path: Path) -> None:
    (tmp_path / "adv").mkdir()
    text = f"files:{tmp_path / 'adv'}@8"
    for texts, protocols in (([text], ("transfer", "adaptive")), ([text], ("static", "transfer")),
                             ([f"{text}:transfer"], ("adaptive",))):  # fmt: skip
        (found,) = threats(texts, protocols)
        assert (found.protocol, found.knows, str(found.attack)) == ("transfer", NOT_KNOWN, text)
    assert labels(threats([text, "pgd2-ce@8"], ("transfer", "adaptive")))[1:] == [
        "transfer pgd2-ce@8/a8", "adaptive pgd2-ce@8/a8",
    ]  # fmt: skip
    for texts, protocols, asked in (
        ([f"{text}:adaptive"], ("transfer",), "adaptive"),
        ([f"{text}:transfer-all"], ("transfer",), "transfer-all"),
        ([text], ("static", "adaptive"), "static, adaptive"),
    ):
        with pytest.raises(ConfigError, match=f"under {asked}: images made elsewhere are as they are") as caught:
            threats(texts, protocols)
        assert f"Evaluate them as {text}:transfer" in str(caught.value)
    with pytest.raises(ConfigError, match="unknown protocol 'adaptiv'. Did you mean 'adaptive'"):
        threats([f"{text}:adaptiv"], ("transfer",))
