"""Evaluations on a tiny CLIP: what is attacked, what is shared, and that the worst case is the worst."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from advpt.attacks import parse
from advpt.attacks.surrogate import load_surrogate
from advpt.bank import build
from advpt.bank.cache import AttackRequest, BankCache
from advpt.data.images import ImageSet
from advpt.errors import AttackError
from advpt.evaluation.evaluator import contradictions, evaluate, summary
from advpt.evaluation.measure import Prompts
from advpt.evaluation.protocols import KNOWS, KNOWS_NOTHING, NOT_KNOWN
from advpt.evaluation.record import CleanAccuracy, Record, RobustAccuracy, RunFacts
from advpt.prompts.classifier import Classifier
from advpt.results.groups import groups
from advpt.results.render import text as text_of
from advpt.settings import EvalSettings, SurrogateSettings
from tests.helpers.autoattack import shorten
from tests.helpers.records import outcome

K = 4
FACTS = RunFacts(dataset="random", trainer="AdvPT", seed=1, config={"BANK.ATTACK": "pgd2@4"})


def test_what_cannot_be_right_about_an_attack():
    def clean(hits):
        return CleanAccuracy.of(torch.arange(10) < hits)

    def robust(hits, **fields):
        return RobustAccuracy.of(torch.arange(10) < hits, **fields)

    assert contradictions(clean(6), robust(3, largest_linf=8.0), "pgd") == []
    assert "robust above clean: 80.00 % under pgd, 60.00 %" in contradictions(clean(6), robust(8), "pgd")[0]
    (warning,) = contradictions(clean(6), robust(6, untouched=100.0), "pgd")
    assert "changed nothing: pgd gave back every image" in warning
    assert "gave back" in contradictions(clean(6), robust(3, largest_linf=0.0), "pgd")[0]
    assert "as well or badly as without" in contradictions(clean(6), robust(6), "pgd")[0]
    assert contradictions(clean(0), robust(0), "pgd") == [], "there was nothing to break"
    nothing = torch.zeros(0).bool()
    assert contradictions(CleanAccuracy.of(nothing), RobustAccuracy.of(nothing), "pgd") == []


# --- measured on a tiny CLIP ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with ten iterations in place of a hundred."""
    shorten(monkeypatch, 10)


def prompt(seed: int) -> Classifier:
    features = torch.randn(K, 64, generator=torch.Generator().manual_seed(seed))
    return Classifier(F.normalize(features, dim=-1), 100.0)


@pytest.fixture
def measured(tiny_clip, images, tmp_path: Path) -> Callable[..., tuple[dict[str, dict], list[Record], BankCache]]:
    """Results by protocol and spec, of the attacks given, on images that the hand-written prompt half knows."""
    pictures = images(12, K, split="test")
    with torch.no_grad():
        seen = torch.cat([tiny_clip.require_image()(b.pixels) for b in pictures.batches(range(12), 12)])
    near = F.normalize(seen - seen.mean(0), dim=-1)
    knowing = torch.stack([near[pictures.labels == k][:2].mean(0) for k in range(K)])
    hand = Classifier(F.normalize(knowing, dim=-1), 100.0)
    learned = Classifier(F.normalize(knowing + 0.2 * near.std() * prompt(0).features, dim=-1), 100.0)
    net = lambda: load_surrogate(SurrogateSettings("small-cnn", ""), images(12, K), tmp_path / "surrogates")  # noqa: E731
    bank_cache = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=6, load_surrogate=net)

    def run(*attacks: str, protocols=("transfer", "transfer-all", "adaptive")):
        settings = EvalSettings(tuple(attacks), tuple(protocols), (), 0, 0)
        found = evaluate(Prompts(learned, hand, ("a {}.",)), pictures, bank_cache, settings, FACTS)
        return (
            {f"{r.result.protocol} {r.result.attack.spec}": r.result.to_json() for r in found},
            found,
            bank_cache,
        )

    return run


def survivors(result: dict) -> np.ndarray:
    return outcome(result["robust"])


def test_pgd_shares_one_bank_between_transfer_and_transfer_all(measured) -> None:
    found, _, bank_cache = measured("pgd3-ce@4/a2")
    banks = [found[f"{p} pgd3-ce@4/a2"]["robust"]["bank"] for p in ("transfer", "transfer-all")]
    assert banks[0] == banks[1] and len(bank_cache.state.built) == 3  # clean, transfer, adaptive
    assert found["adaptive pgd3-ce@4/a2"]["robust"]["bank"] != banks[0]
    assert all(key in bank_cache.state.built for key in banks)


def test_autoattack_shows_what_it_left_alone(measured) -> None:
    found, records, bank_cache = measured("apgd-ce-t@0.5")
    some, every = found["transfer apgd-ce-t@0.5"], found["transfer-all apgd-ce-t@0.5/every"]
    adaptive = found["adaptive apgd-ce-t@0.5"]
    assert 0 < some["robust"]["untouched"] < 100 and every["robust"]["untouched"] == 0
    assert len({r["robust"]["bank"] for r in (some, every, adaptive)}) == 3
    for r in (some, every, adaptive):
        part = r["robust"]
        assert sum(part["stages"].values()) == part["n"] == 12
        assert list(part["stages"]) == ["apgd-ce", "apgd-t", "none"]
        assert part["on_perturbed"]["n"] == round(12 * (1 - part["untouched"] / 100))
    bank = bank_cache.state.opened[some["robust"]["bank"]]
    perturbed = bank.columns["perturbed"].numpy()
    assert some["robust"]["stages"]["none"] == 12 - int(perturbed.sum())
    assert some["robust"]["on_perturbed"]["correct"] == int(survivors(some)[perturbed].sum())
    assert (bank.columns["clean_correct"][bank.columns["perturbed"]] == 1).all()
    assert every["attack"]["every"] and not some["attack"]["every"]
    text = summary(records)
    for part in ("untouched", "on the perturbed", "broken by apgd-ce"):
        assert part in text
    assert "% untouched," in text_of(groups(records)[0].table())


def test_the_attacked_prompt_and_the_classifying_prompt_are_two(measured) -> None:
    found, _, bank_cache = measured("pgd3-ce@4/a2", protocols=("transfer", "adaptive"))
    transfer, adaptive = (found[f"{p} pgd3-ce@4/a2"] for p in ("transfer", "adaptive"))
    texts = [
        bank_cache.state.opened[r["robust"]["bank"]].spec["adversarial_set"]["attacked"]["text"]
        for r in (transfer, adaptive)
    ]
    assert texts[0] != texts[1]
    assert transfer["clean"]["accuracy"] == adaptive["clean"]["accuracy"]
    assert adaptive["robust"]["accuracy"] <= transfer["robust"]["accuracy"]


def test_the_worst_case_is_the_and_of_all_attacks(measured) -> None:
    found, records, _ = measured(
        "pgd2-ce@0.5", "pgd2-margin@0.5", "apgd-ce-t@0.5", "pgd2-ce@1", protocols=("transfer",)
    )
    worst = found["transfer worst-case@0.5"]
    members = [r for key, r in found.items() if key.endswith(("@0.5", "@0.5/a0.5")) and "worst" not in key]
    assert len(members) == 3 and worst["attack"]["attacks"] == [r["attack"]["spec"] for r in members]
    assert np.array_equal(survivors(worst), np.logical_and.reduce([survivors(r) for r in members]))
    assert worst["robust"]["accuracy"] == pytest.approx(100 * survivors(worst).mean())
    assert worst["robust"]["accuracy"] <= min(r["robust"]["accuracy"] for r in members)
    assert worst["robust"]["untouched"] == 0  # PGD touched them all
    assert "transfer worst-case@1" not in found  # one attack is no contest
    assert "worst-case@0.5" in summary(records)
    heads = text_of(groups(records)[0].table()).splitlines()[2]
    assert heads.index("worst case 0.5/255") > heads.index("APGD-CE and APGD-T 0.5/255") > heads.index("clean")
    assert records[0].result.attack.spec.startswith("pgd2-ce@0.5")  # the first attack stays the first record


def test_visual_prompts_are_in_the_key_of_a_surrogate_attacks_bank(measured, images) -> None:
    """The attack does not go through them; the images are seen through them."""
    _, _, bank_cache = measured("pgd3-ce@4/a2")
    prompts, attack = torch.zeros(1, 1, bank_cache.backbone.card.image.width), parse("rap2@8")
    plain = bank_cache.spec(AttackRequest(images(12, K, split="test"), attack))
    prompted = bank_cache.with_visual_prompts(prompts).spec(AttackRequest(images(12, K, split="test"), attack))
    assert plain.adversarial_set.fields() == prompted.adversarial_set.fields() and plain.key != prompted.key


def test_a_surrogate_attack_is_recorded_with_its_network(measured) -> None:
    found, records, bank_cache = measured("rap3@16/inner2/late1", "pgd2-ce@16")
    (key,) = [key for key in found if "rap3" in key]
    r = found[key]
    assert r["protocol"] == "transfer" and r["attacker_knows"] == KNOWS_NOTHING
    own = r["robust"]["surrogate"]
    assert own["network"] == "small-cnn" and "stand-in" in own["about"] and 0 <= own["accuracy"] <= 100
    assert own["accuracy_attacked"] <= own["accuracy"] and own["digest"] == bank_cache.surrogate.digest
    assert "surrogate small-cnn" in summary(records)
    assert "adaptive worst-case@16" not in found
    assert found["transfer worst-case@16"]["attacker_knows"] == KNOWS["transfer"]  # of the two, who knows more


def test_autoattack_at_least_matches_pgd_where_both_know_the_prompt(measured) -> None:
    found, _, _ = measured("apgd-ce-t@0.5", "pgd10-ce@0.5", protocols=("adaptive",))
    one, other = (r["robust"]["accuracy"] for key, r in found.items() if "worst" not in key)
    assert one <= other + 100 / 12  # one image of rounding


def test_targeted_attacks_aim_at_another_class(measured) -> None:
    found, _, bank_cache = measured("pgd10-target@8", "pgd10-ce@8", protocols=("adaptive",))
    (r,) = [r for key, r in found.items() if "target" in key]
    assert r["robust"]["accuracy"] < r["clean"]["accuracy"]
    bank = bank_cache.state.opened[r["robust"]["bank"]]
    assert bank.columns["loss"].max() <= 0 and parse("pgd10-target@8").build().objective.targeted


# --- memory --------------------------------------------------------------------------------------------------------

MEMORY = """
import sys
import torch
from pathlib import Path
torch.set_num_threads(1)
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.bank.cache import BankCache
from advpt.data import images
from advpt.evaluation.evaluator import evaluate
from advpt.evaluation.measure import Prompts
from advpt.evaluation.record import RunFacts
from advpt.prompts.classifier import Classifier
from advpt.settings import EvalSettings

n, folder = int(sys.argv[1]), Path(sys.argv[2])

def generated(path, preprocessing):
    g = torch.Generator().manual_seed(int(path.stem))
    return torch.rand(3, 224, 224, generator=g), bytes(32)

images.read_image = generated
torch.manual_seed(0)
backbone = backbone_of("small tower", build(Architecture(32, 224, 1, 64, 32, 77, 49408, 64, 1)))
samples = tuple(images.Sample(f"{i}.png", f"{i}.png", i % 5) for i in range(n))
pictures = images.ImageSet("generated", "test", samples, tuple("abcde"), images.Preprocessing((224, 224), "bicubic"))
library = BankCache(folder, backbone, lambda: backbone, chunk=8)
prompts = [Classifier(torch.nn.functional.normalize(torch.randn(5, 32), dim=-1), 100.0) for _ in range(2)]
settings = EvalSettings(("pgd1-ce@8",), ("transfer",), (), 0, 0)
facts = RunFacts(dataset="generated", trainer="AdvPT", seed=1, config={})
found = evaluate(Prompts(*prompts, ("{}",)), pictures, library, settings, facts)
assert found[0].result.robust.n == n
# not ru_maxrss, which remembers the process that started this one
print(1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of peak memory")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Peak resident memory for 50 and for 300 images of 224 pixels, each evaluation in a process of its own. Freed
    tensors go back to the system at once, so that the peak is what was held and not how the heap happened to lie."""
    peak = {}
    for n in (50, 300):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(n), str(tmp_path / str(n))],
            env=os.environ
            | {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
            | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peak[n] = int(done.stdout.split()[-1])
    own = 250 * 3 * 224 * 224 * 4
    assert peak[300] - peak[50] < 0.05 * own, {n: f"{v / 2**20:.0f} MiB" for n, v in peak.items()}


def test_logits_are_of_the_attacked_prompt(tiny_clip, images) -> None:
    """The function that an attack gets is scale x cosine of the embeddings, nothing cached."""
    pictures, hand = images(4, K), prompt(3)
    attacker = build.Attacker(parse("pgd1-ce@8").build(), tiny_clip.require_image(), hand, torch.device("cpu"))
    batch = next(pictures.batches(range(4), 4))
    logits = attacker.model(attacker.encode)
    assert logits is not None
    with torch.no_grad():
        expected: Tensor = hand.logits(tiny_clip.require_image()(batch.pixels))
        assert torch.equal(logits(batch.pixels), expected) and logits(batch.pixels) is not logits(batch.pixels)


# --- images made elsewhere ------------------------------------------------------------------------------------------


def made_elsewhere(pictures: ImageSet, path: Path) -> Path:
    """Every second image brighter by 4 of 255, the others as they are."""
    pixels = torch.cat([b.pixels for b in pictures.batches(range(len(pictures)), 6)])
    pixels[::2] = (pixels[::2] + 4 / 255).clamp(0, 1)
    save_file({"images": pixels}, path, metadata={"ids": json.dumps(pictures.ids)})
    return path


def test_images_made_elsewhere_in_a_record(measured, images, tmp_path: Path) -> None:
    pictures = images(12, K, split="test")
    path = made_elsewhere(pictures, tmp_path / "adv.safetensors")
    found, records, bank_cache = measured(f"files:{path}@4", "pgd2-ce@4")
    (key,) = [key for key in found if "files" in key]
    r = found[key]
    label = r["attack"]["spec"]
    assert key == f"transfer {label}" and label == r["attack"]["asked"] == f"files:{r['attack']['content'][:12]}@4"
    assert str(tmp_path) not in json.dumps(r) and r["attacker_knows"] == NOT_KNOWN
    assert r["robust"]["largest_linf"] == pytest.approx(4, abs=1e-3) and r["robust"]["untouched"] == 50
    assert r["robust"]["on_perturbed"]["n"] == 6
    written = next(x for x in records if x.result.to_json() == r)
    assert written.observed.files == str(path) and records[-1].observed.files is None
    adversarial_set = bank_cache.state.opened[r["robust"]["bank"]].spec["adversarial_set"]
    assert (
        adversarial_set["attacked"]["image"] is adversarial_set["attacked"]["text"] is adversarial_set["seed"] is None
    )
    assert label in found["transfer worst-case@4"]["attack"]["attacks"]
    text = summary(records)
    assert "largest change of a pixel 4" in text and NOT_KNOWN in text
    assert label in text_of(groups(records)[0].table())


def test_images_of_another_set_are_refused_before_anything_is_built(measured, images, tmp_path: Path) -> None:
    path = made_elsewhere(images(12, K, split="train"), tmp_path / "adv.safetensors")
    with pytest.raises(AttackError, match="random, test: .* lacks 12 of 12 images"):
        measured(f"files:{path}@4")
    assert not list((tmp_path / "banks").glob("**/*.safetensors"))
