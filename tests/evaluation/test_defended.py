"""Evaluations behind defenses: what the records and tables say, on which images, and that no clean image leaks in."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from advpt.bank.cache import BankCache
from advpt.defenses import adm, edsr
from advpt.defenses.base import DEFENSES, Defense
from advpt.defenses.chain import Chain
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution
from advpt.errors import ConfigError, WeightsError
from advpt.evaluation import defended, tuned
from advpt.evaluation import record as records
from advpt.evaluation.defended import mean_over_draws
from advpt.evaluation.evaluator import evaluate, summary
from advpt.evaluation.measure import Prompts
from advpt.evaluation.record import Accuracy, DefenseFacts, RobustAccuracy, RunFacts
from advpt.prompts.classifier import Classifier
from advpt.results.exhibit import Cell, Metric, Table, TableRow, robust
from advpt.results.groups import groups
from advpt.results.index import Run
from advpt.results.render import text as text_of
from advpt.results.report import write as write_report
from advpt.settings import EvalSettings
from tests.helpers.adm_reference import CONFIG, make_adm
from tests.helpers.banks import make_images

FACTS = RunFacts(dataset="tiny", trainer="AdvPT", seed=1, config={"BANK.ATTACK": "pgd2-fkl@8"})


class Planted(Defense):
    """A wrong image in place of every one: whoever compared with the clean image would notice."""

    name, summary, profiles = "planted", "a wrong image", {"wrong": {}}
    has_gradient = False

    def apply(self, pixels, noise):
        wrong = torch.rand(pixels.shape[1:], generator=torch.Generator().manual_seed(9))
        return wrong.expand_as(pixels)


@pytest.fixture
def planted():
    DEFENSES.add(Planted)
    yield
    DEFENSES.remove("planted")


@pytest.fixture
def settings():
    return EvalSettings(("pgd2-fkl@8",), ("transfer",), (), 0, 0)


def fitted(bank) -> Prompts:
    """A prompt that knows the bank's images by heart."""
    e, wanted = F.normalize(bank.embeddings, dim=-1), F.one_hot(bank.labels, 3).float() - 1 / 3
    one = Classifier(F.normalize(torch.linalg.pinv(e) @ wanted, dim=0).T.contiguous(), 20.0)
    return Prompts(one, one, ("a photo of a {}.",))


@pytest.fixture
def prompts(bank_cache, pictures):
    return fitted(bank_cache.get(pictures))


def run(prompts, images, bank_cache, settings, **changes):
    return evaluate(prompts, images, bank_cache, dataclasses.replace(settings, **changes), FACTS)


def by_name(found):
    return {record.name: record.result.to_json() for record in found}


def test_one_record_per_attack_protocol_and_defense(bank_cache, pictures, prompts, settings):
    found = run(prompts, pictures, bank_cache, settings, defenses=("rescale", "super:advpt+rescale"),
                attacks=("pgd2-fkl@8", "pgd2-ce@4"), protocols=("transfer", "adaptive"))  # fmt: skip
    assert len({record.name for record in found}) == len(found)
    first = [(r.result.protocol, r.result.defense_name) for r in found[:3]]
    assert first == [("transfer", ""), ("transfer", "rescale:iclr"), ("transfer", "super:advpt+rescale:iclr")]
    r = by_name(found)["test_transfer_pgd2-fkl@8-a5_rescale-iclr".replace("test", pictures.split)]
    assert r["defense"]["gradient"] is None and r["attacker_knows"].endswith("not the defense")
    assert r["defense"]["expanded"].startswith("rescale:iclr/low=1.0/canvas=1.107/")
    knowing = [x.result.to_json() for x in found if x.result.protocol == "adaptive" and x.result.defenses]
    assert knowing
    for r in knowing:
        assert r["attack"]["spec"] == r["attack"]["asked"] + "/eot10" and r["attack"]["draws"] == 10
        assert "a mean over 10 draws" in r["note"] and r["attacker_knows"].endswith("and the defense")
        assert set(r["defense"]["gradient"].values()) == {"own"}
    json.dumps([record.result.to_json() for record in found])
    text = summary(found)
    assert "behind super:advpt+rescale:iclr" in text and "over 3 seeds of the defense" in text


def test_bpda_and_worst_cases_are_recorded(bank_cache, pictures, prompts, settings):
    found = run(prompts, pictures, bank_cache, settings, defenses=("super",), protocols=("adaptive",), bpda=True,
                attacks=("pgd2-ce@8", "pgd2-margin@8"))  # fmt: skip
    behind = [x.result.to_json() for x in found if x.result.defenses]
    assert len(behind) == 3 and len(found) == 6
    assert all(r["defense"]["gradient"] == {"1 super": "straight through"} for r in behind)
    assert all("identity gradient through super" in r["note"] for r in behind), "the worst case too"
    assert not any("gradient" in x.result.note for x in found if not x.result.defenses)
    assert "identity gradient through super" in summary(found)
    worst = behind[-1]
    assert worst["attack"]["name"] == "worst-case" and worst["robust"]["accuracy"] <= behind[0]["robust"]["accuracy"]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ({"1 diffpure": "straight through (own up to 20 network calls)"}, "identity gradient through diffpure"),
        ({"1 diffpure": "own (own up to 20 network calls)"}, ""),
        ({"1 super": "own (rounding to 8 bit passed straight through)"},
         "identity gradient through the rounding of super"),
        ({"1 super": "own", "2 rescale": "own"}, ""),
        ({"1 super": "straight through", "2 diffpure": "straight through (own up to 20 network calls)"},
         "identity gradient through super, identity gradient through diffpure"),
        ({"tapt": tuned.GRADIENT["adaptive"]}, "smoothed gradient through the tuning"),
        ({"tapt": tuned.GRADIENT["tuned"]}, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_the_word_for_a_gradient_that_is_not_that_of_what_was_attacked(kind, word):
    assert defended.inexact_gradient(DefenseFacts(gradient=kind)) == word
    assert defended.inexact_gradient(None) == ""


def test_every_defense_that_says_it_is_inexact_has_a_word(tmp_path, monkeypatch):
    """What the stages themselves say of their gradients is what the word is made of."""
    network = edsr.EDSR(1, 4)
    for stage, name in ((SuperResolution().use(network), "super"), (Planted(), "planted")):
        chain = Chain("x", [stage])
        assert name in defended.inexact_gradient(DefenseFacts(gradient=chain.gradients()))
    chain = Chain("x", [SuperResolution(), RandomRescale()])
    assert defended.inexact_gradient(DefenseFacts(gradient=chain.gradients())) == ""


def test_the_word_stands_in_every_table_and_on_the_page(bank_cache, pictures, prompts, settings, tmp_path):
    """Beside the adaptive number behind the defense, and beside no other."""
    found = run(prompts, pictures, bank_cache, settings, defenses=("super",), protocols=("transfer", "adaptive"),
                attacks=("pgd2-ce@8",), bpda=True)  # fmt: skip
    word = "identity gradient through super"
    rows = [line for line in text_of(groups(found)[0].table()).splitlines() if line.startswith("|")]
    assert [line.count(word) for line in rows] == [0, 0, 0, 1]
    old = [
        dataclasses.replace(r, result=dataclasses.replace(r.result, note="")) for r in found
    ]  # as they were written before
    for record in old:
        records.write(record, tmp_path / "run")
    cells = [Cell(("r",), robust("pgd2-ce@8", protocol, "super")) for protocol in ("transfer", "adaptive")]
    cells += [Cell(("r",), Metric(None, "", cells[0].metric.defense))]
    lines = [TableRow("B", "AdvPT", "super", "pgd", cell.metric.protocol or "-", (cell,)) for cell in cells]
    table = Table("t", "T", "about", ("Tiny",), tuple(lines))
    made = write_report([table], {"r": Run("r", tmp_path / "run", 1, "done", "a run")}, tmp_path, title="t", about="a")
    text = [line for line in (tmp_path / "tables/t.md").read_text().splitlines() if line.startswith("| B")]
    assert [line.count(word) for line in text] == [0, 1, 0]
    with (tmp_path / "tables/t.csv").open() as file:
        assert [word in line["notes"] for line in csv.DictReader(file)] == [False, True, False]
    assert made.page.read_text().count(word) == 2, "beside the number and in the list of records"


def test_random_defenses_have_a_mean_and_a_deviation(bank_cache, pictures, prompts, settings):
    found = run(prompts, pictures, bank_cache, settings, defenses=("rescale", "super"), defense_seeds=4, seed=7)
    random, fixed = found[1].result.robust, found[2].result.robust
    draws = random.defense_seeds
    assert [draw.seed for draw in draws] == [7, 8, 9, 10] and len({draw.bank for draw in draws}) == 4
    values = torch.tensor([draw.accuracy for draw in draws])
    assert random.accuracy == pytest.approx(float(values.mean()))
    assert random.deviation == pytest.approx(float(values.std()), abs=1e-5)
    assert found[1].result.clean.deviation is not None and fixed.deviation is None


def test_means_over_draws():
    def part(accuracy):
        counts = {"accuracy": accuracy, "n": 4, "correct": int(accuracy / 25), "interval95": (0, 1)}
        return RobustAccuracy(**counts, lost=accuracy, on_perturbed=Accuracy(**counts))

    parts = [part(25.0), part(75.0)]
    mean = mean_over_draws(parts, [defended.DefendedInput(None, 0), defended.DefendedInput(None, 1)])
    assert (mean.accuracy, mean.correct, mean.lost) == (50, 2, 50)
    assert mean.deviation == pytest.approx(35.355, abs=1e-3)
    assert mean.on_perturbed.accuracy == 50 and mean.on_perturbed.correct == 2
    assert mean_over_draws(parts[:1], [defended.DefendedInput()]) == parts[0]


def test_a_wrong_image_is_classified_as_what_it_is(bank_cache, settings, tmp_path, planted):
    """Nothing compares with the clean image or clamps to it: behind a defense that returns a wrong image, accuracy is
    chance, clean and attacked, whoever attacks."""
    images = make_images(tmp_path / "more", 12)
    found = run(fitted(bank_cache.get(images)), images, bank_cache, settings, defenses=("planted", "rescale+planted"),
                protocols=("transfer", "adaptive"))  # fmt: skip
    behind = [r.result.to_json() for r in found if r.result.defenses]
    assert found[0].result.clean.accuracy > 50 and len(behind) == 4
    for r in behind:
        assert r["clean"]["accuracy"] == r["robust"]["accuracy"] == pytest.approx(100 / 3)


def test_no_defense_is_given_a_clean_image(bank_cache, pictures, prompts, settings, monkeypatch):
    """What a defense sees is the attacked image, to the last bit, and nothing else."""
    given = []
    real = RandomRescale.apply
    monkeypatch.setattr(RandomRescale, "apply", lambda self, x, noise: given.append(x.clone()) or real(self, x, noise))
    run(prompts, pictures, bank_cache, settings, defenses=("rescale",), defense_seeds=1)
    clean = torch.cat([b.pixels for b in pictures.batches(range(len(pictures)), 4)])
    assert torch.equal(torch.cat(given[:3]), clean)  # the clean accuracy behind the defense
    attacked = torch.cat(given[3:])
    assert len(attacked) == len(clean) and 0 < (attacked - clean).abs().max() <= 8 / 255 + 1e-6


def test_costly_defenses_run_on_a_part(bank_cache, pictures, prompts, settings, monkeypatch):
    monkeypatch.setattr(RandomRescale, "costly", True)
    found = run(prompts, pictures, bank_cache, settings, defenses=("rescale", "super"), costly_subset=6)
    rows = [
        (
            r.result.defense_name,
            r.result.images.n,
            r.result.images.part,
        )
        for r in found
    ]
    assert rows == [("", 10, False), ("super:advpt", 10, False), ("", 6, True), ("rescale:iclr", 6, True)]
    assert found[3].name.endswith("_rescale-iclr_first6") and len({r.name for r in found}) == 4
    assert [g.records[0].result.images.n for g in groups(found)] in ([10, 6], [6, 10])
    whole = run(prompts, pictures, bank_cache, settings, defenses=("rescale",), costly_subset=0)
    assert [r.result.images.part for r in whole] == [False, False]
    asked = run(prompts, pictures, bank_cache, settings, defenses=("rescale",), costly_subset=2, subset=4)
    assert [r.result.images.n for r in asked] == [4, 4]


def test_the_table_has_a_row_per_defense(bank_cache, pictures, prompts, settings):
    found = run(prompts, pictures, bank_cache, settings, defenses=("rescale",), protocols=("transfer", "adaptive"),
                attacks=("pgd2-ce@8",))  # fmt: skip
    (group,) = groups(found)
    lines = text_of(group.table()).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["defense", "method", "seeds"]
    assert "none" in lines[4] and "rescale:iclr" in lines[5] and "not run" not in text_of(group.table())
    plain = run(prompts, pictures, bank_cache, settings)
    assert "| defense" not in text_of(groups(plain)[0].table())


def test_clean_records_behind_defenses(bank_cache, pictures, prompts, settings):
    found = run(prompts, pictures, bank_cache, settings, defenses=("super",), attacks=())
    assert [r.result.robust for r in found] == [None, None]
    assert found[1].name == f"{pictures.split}_clean_super-advpt"
    assert "behind super:advpt" in summary(found)


def test_a_small_diffusion_model_end_to_end(bank_cache, pictures, prompts, settings, tmp_path, monkeypatch):
    pytest.importorskip("diffusers", reason='diffusers is not installed: pip install "advpt[diffpure]"')
    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    unet = adm.from_state(adm.convert(make_adm().state_dict(), CONFIG), CONFIG, "here")
    adm.save(unet, CONFIG, tmp_path / "tiny.safetensors")
    chains = ("diffpure:ddpm/t=3/weights=tiny.safetensors", "diffpure:sde/t=21/weights=tiny.safetensors")
    found = run(prompts, pictures.first(2), bank_cache, settings, defenses=chains, protocols=("transfer", "adaptive"),
                attacks=("pgd1-ce@8",), defense_seeds=1, eot=1)  # fmt: skip
    behind = [r.result.to_json() for r in found if r.result.protocol == "adaptive" and r.result.defenses]
    gradients = [r["defense"]["gradient"]["1 diffpure"] for r in behind]
    assert [g.split(" (")[0] for g in gradients] == ["own", "straight through"]
    assert ["identity gradient through diffpure" in r["note"] for r in behind] == [False, True]
    assert all(r.result.defense.stages[0]["weights"] for r in found if r.result.defenses)


def test_what_is_missing_is_said_before_a_run(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="edsr_baseline"):
        defended.check(dataclasses.replace(settings, defenses=("super:mustafa",)))
    with pytest.raises(ConfigError, match="Did you mean 'rescale'"):
        defended.check(dataclasses.replace(settings, defenses=("rescal",)))


# --- the command line -------------------------------------------------------------------------------------------


def test_train_py_with_defenses(workspace):
    said = workspace.run(
        "EVAL.DEFENSES", "('rescale','super:advpt+rescale')", "EVAL.DEFENSE_SEEDS", "2", "EVAL.EOT", "2"
    )  # fmt: skip
    names = {path.stem for path in (Path(workspace.output) / "records").glob("*.json")}
    assert "test_transfer_pgd2-fkl@8-a5_super-advpt+rescale-iclr" in names and "test_transfer_pgd2-fkl@8-a5" in names
    assert "* robust_accuracy (transfer, pgd2-fkl@8/a5, rescale:iclr):" in said
    assert said.count("* robust_accuracy: ") == 1
    keys = {path.parent.name for path in (workspace.folder / "banks").glob("**/manifest.json")}
    workspace.run("EVAL.DEFENSES", "('rescale',)", "EVAL.DEFENSE_SEEDS", "2", "EVAL.EOT", "2", trainer="ZeroshotCLIP",
              output=workspace.folder / "zero")  # fmt: skip
    more = {path.parent.name for path in (workspace.folder / "banks").glob("**/manifest.json")} - keys
    assert len(more) == 2  # the adaptive attack on its prompt behind two draws; the rest is shared


def test_train_py_refuses_unknown_defenses_at_once(workspace):
    code, said = workspace.call("EVAL.DEFENSES", "('rescal',)")
    assert code == 2 and "Did you mean 'rescale'" in said and not (workspace.folder / "banks").exists()


def test_libraries_share_what_does_not_know_the_prompt(bank_cache, pictures, prompts, settings):
    run(prompts, pictures, bank_cache, settings, defenses=("rescale",))
    other = BankCache(bank_cache.root, bank_cache.backbone, bank_cache.load, chunk=4)
    flipped = Prompts(Classifier(-prompts.learned.features, 20.0), prompts.zero_shot, prompts.handcrafted_text)
    run(flipped, pictures, other, settings, defenses=("rescale",))
    assert not other.state.built
