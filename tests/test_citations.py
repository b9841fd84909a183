"""What the project says about papers: numbers of sections, equations, tables and figures, and recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.setup import PAPER
from advpt.settings import recipe

ROOT = Path(__file__).resolve().parents[1]
BACKBONES = ("rn50", "rn101", "vit_b16", "vit_b32", "vit_l14")

# AdvPT's paper: 4.1 the bank (equation 2: PGD on the KL between embeddings), equation 3 softmax of scores under
# cross-entropy, 5.6 and Table 4 the linear probe, Table 5 nearest words, Figure 4 against PGD adversarial training,
# Figure 5 against Fast AT. TAPT's: equation 3 the entropy, 6 to 8 the alignment. Other numbers are not cited: they
# cannot be checked here.
CITED = {
    "advpt/attacks/objectives.py": ["section 4.1", "equation 2"],
    "advpt/attacks/pgd.py": ["section 4.1", "equation 2"],
    "advpt/losses.py": ["equation 3", "equation 3", "equations 6 to 8", "equations 3"],
    "advpt/prompts/words.py": ["Table 5"],
    "trainers/adv_train.py": ["Figure 4"],
    "trainers/fast_at.py": ["Figure 5"],
    "trainers/tecoa.py": ["Figure 4"],
    "trainers/linear_probe.py": ["section 5.6", "Table 4", "Table 1", "Table 4"],
}
NUMBERED = re.compile(
    r"\b(?:sections?|sec\.|equations?|eqs?\.)\s+\d[\d.]*(?:\s+to\s+\d+)?|\b(?:Figure|Table)\s+\d+", re.I
)
KNOWN = {"Table": range(1, 6), "Figure": range(1, 8)}  # of AdvPT's paper


def texts(*folders: str) -> dict[str, str]:
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".md", ".sh", ".yaml") and path.is_file():
                found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return found


def citations(text: str) -> list[str]:
    return [" ".join(match.rstrip(".").split()) for match in NUMBERED.findall(text)]


def test_every_numbered_citation_of_the_methods_is_one_that_was_checked() -> None:
    found = {name: citations(text) for name, text in texts("advpt", "trainers", "configs", "benchmarks").items()}
    own = ("advpt/jobs/", "advpt/results/", "advpt/defenses/")  # the exhibits themselves, and below
    assert {n: c for n, c in found.items() if c and not n.startswith(own)} == CITED


@pytest.mark.parametrize("folder", ("advpt", "trainers", "docs", "scripts"))
def test_tables_and_figures_are_among_those_of_the_paper(folder: str) -> None:
    for name, text in texts(folder).items():
        if "tapt" in name:
            continue  # TAPT's paper has Tables 1 and 2
        for cited in re.findall(r"\b(Table|Figure) (\d+)", text):
            assert int(cited[1]) in KNOWN[cited[0]], f"{name}: {' '.join(cited)}"


def test_figures_4_and_5_have_the_rivals_of_the_paper() -> None:
    shown = {}
    for name in ("fig4", "fig5", "efficiency"):
        (figure,) = plan_exhibits([name], PAPER, ROOT).exhibits
        shown[name] = {clock.series for clock in figure.time_curves}  # type: ignore[union-attr]
        assert {clock.part for clock in figure.time_curves} == {"clean", "robust"}  # type: ignore[union-attr]
        if name == "efficiency":
            assert "Not in the paper" in figure.caption and "Figure" not in figure.title
    assert shown == {
        "fig4": {"AdvPT", "AdvTrain"},
        "fig5": {"AdvPT", "FastAT"},
        "efficiency": {"AdvPT", "AdvTrain", "FastAT", "TradesFT"},
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_imagenet_recipe_is_the_papers_and_the_released_one_warms_up(backbone: str) -> None:
    paper, released = (
        recipe(ROOT / "configs/trainers/AdvPT" / f"{backbone}_imagenet{kind}.yaml") for kind in ("", "_released")
    )
    assert (paper["OPTIM.MAX_EPOCH"], paper["DATALOADER.TRAIN_X.BATCH_SIZE"]) == (5, 512)
    assert (paper["OPTIM.WARMUP_EPOCH"], released["OPTIM.WARMUP_EPOCH"]) == (0, 1)
    assert {k for k in paper.keys() | released.keys() if paper.get(k) != released.get(k)} == {"OPTIM.WARMUP_EPOCH"}
    assert float(released["OPTIM.WARMUP_CONS_LR"]) == 1e-5


def comment(path: str) -> str:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_coops_yamls_say_whose_recipe_they_have(backbone: str) -> None:
    """CoOp tunes 200 epochs on 8 and more shots, 50 on ImageNet, in batches of 32, with M = 16 and fp16."""
    own = recipe(ROOT / f"configs/trainers/CoOp/{backbone}.yaml")
    says = (own["TRAINER.COOP.N_CTX"], own["TRAINER.COOP.PREC"], own["OPTIM.LR"], own["OPTIM.MAX_EPOCH"])
    assert says == (16, "fp16", 0.002, 200) and own.get("DATALOADER.TRAIN_X.BATCH_SIZE", 32) == 32
    assert comment("configs/trainers/CoOp/recipe.yaml").startswith("CoOp's recipe")
    here = recipe(ROOT / f"configs/trainers/CoOp/{backbone}_imagenet.yaml")
    assert (here["OPTIM.MAX_EPOCH"], here["DATALOADER.TRAIN_X.BATCH_SIZE"]) != (50, 32)
    assert comment("configs/trainers/CoOp/recipe_imagenet.yaml").startswith("Not CoOp's own recipe on ImageNet")


def test_what_is_fares_and_what_is_ours() -> None:
    text, own = comment("configs/trainers/finetune.yaml"), recipe(ROOT / "configs/trainers/finetune.yaml")
    assert own["OPTIM.NAME"] == "adamw" and (float(own["OPTIM.LR"]), float(own["OPTIM.WEIGHT_DECAY"])) == (1e-5, 1e-4)
    assert "20,000 steps (two epochs of ImageNet)" in text
    assert own["OPTIM.MAX_EPOCH"] == 5 and "five epochs are our choice" in text


def test_a_path_that_readers_know_still_works() -> None:
    """The recipe that was changed keeps its file's name; main.sh and reproduce find it by data set."""
    job = next(
        j for j in plan_exhibits(["table1"], PAPER, ROOT).plan.jobs if (j.trainer, j.dataset) == ("AdvPT", "imagenet")
    )
    assert job.config == "configs/trainers/AdvPT/vit_b16_imagenet.yaml"
