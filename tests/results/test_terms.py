"""The words that a first reader needs: of what is on the page, and of nothing else."""

from __future__ import annotations

from advpt.evaluation.protocols import KNOWS, KNOWS_NOTHING
from advpt.results import render, terms
from advpt.results.benchmark import WON
from advpt.results.exhibit import Condition
from advpt.results.towers import SECONDS
from advpt.results.values import Value
from tests.helpers.figures import filled, number


def test_every_protocol_has_short_words():
    assert set(terms.SHORT) == {"", *KNOWS}
    assert terms.apart_from_clip(KNOWS_NOTHING) and terms.apart_from_clip(KNOWS["transfer"]) == ""
    assert terms.apart_from_clip(None) == ""


def test_every_head_before_the_numbers_has_words():
    assert set(terms.HEADS) == {*render.HEADS, "seeds", SECONDS, *render.COST_HEADS, "tower", "prompt", WON}


def test_columns_say_what_the_attacker_knows_or_how_many_images_there_are():
    table = filled(["AdvPT"], (("", "clean"), ("adaptive", "PGD")))
    assert terms.under_heads(table) == ["no attack", terms.SHORT["adaptive"]]
    table.table.conditions["PGD adaptive"] = Condition("adaptive", "PGD", "made elsewhere")
    assert terms.under_heads(table)[1] == "made elsewhere"
    table = filled(["vanilla", "AdvPT"], (("-", "clean"),), conditions=False)
    table.values[:] = [
        [number(1, n=5), number(1, n=1200), Value("failed")],
        [number(1, n=9), Value("failed"), Value("n/a")],
    ]
    assert terms.under_heads(table) == ["n = 5 to 9", "n = 1,200", ""]


def test_only_terms_of_the_page_are_explained():
    names = [name for name, _ in terms.explained([filled(["mine"], (("", "clean"),))], [])]
    assert names == ["accuracy", "clean", "[85.1, 90.0]", "seeds"]
    table = filled(["AdvPT", "mine"], (("", "clean"), ("static", "PGD"), ("transfer-all", "PGD")), word="failed")
    table.values[0][1] = Value("value", number(3).runs, untouched=40.0, paper=3.0)
    explained = dict(terms.explained([table], []))
    assert {"budget", "static", "transfer-all", "AdvPT", "untouched", "paper", "words"} <= set(explained)
    assert "adaptive" not in explained and "mine" not in explained
    assert explained["transfer-all"].startswith("as transfer") and explained["static"].startswith("the attacker knows")
