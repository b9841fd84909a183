"""Attacks on any model, and evaluations of ours: the numbers of ``train.py``, and of other attack libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import advpt
from advpt.attacks.noise import SampleNoise
from advpt.cli import main
from advpt.data.demo_sets import DIGIT_NAMES, DIGITS
from advpt.errors import AdvPTError, AttackError, ConfigError, DataError, ModelError
from advpt.evaluation import record as records
from tests.helpers.workspace import Workspace, own_data


class Network(nn.Module):
    """With everything that training mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(4 * 36, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.layers(pixels).relu())


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


# --- attack ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["pgd5-ce@8", "pgd5-margin@128/l2", "fgsm-ce@4", "apgd-ce5@8", "pgd5-kl@8"])
def test_a_network_of_anyones_is_attacked_and_is_as_before(network, pixels, text):
    network.train()
    network.layers[1].eval()
    network.head.bias.requires_grad_(False)
    modes = [part.training for part in network.modules()]
    wanted = [weight.requires_grad for weight in network.parameters()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    attacked = advpt.attack(text, network, pixels, LABELS)
    assert [part.training for part in network.modules()] == modes
    assert [weight.requires_grad for weight in network.parameters()] == wanted
    assert all(weight.grad is None for weight in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert attacked.shape == pixels.shape and attacked.min() >= 0 and attacked.max() <= 1 and not attacked.requires_grad
    size = (attacked - pixels).flatten(1).norm(dim=1).max() if "l2" in text else (attacked - pixels).abs().max()
    assert 0 < 255 * size <= float(text.split("@")[1].split("/")[0]) + 1e-3
    network.eval()
    loss = [nn.functional.cross_entropy(network(each), LABELS) for each in (pixels, attacked)]
    assert loss[1] > loss[0] or "kl" in text
    assert torch.equal(attacked, advpt.attack(text, network, pixels, LABELS))
    if "pgd" in text:
        assert not torch.equal(attacked, advpt.attack(text, network, pixels, LABELS, seed=1))


def test_modes_come_back_after_an_error_too(network, pixels):
    network.train()
    with pytest.raises(AttackError, match=r"labels lie in 0 .. 9, and the model has 5 classes"):
        advpt.attack("pgd2-ce@8", network, pixels, torch.tensor([0, 1, 2, 3, 4, 9]))
    assert all(part.training for part in network.modules()) and all(w.requires_grad for w in network.parameters())


def test_a_function_will_do_and_embeddings_need_an_encoder(network, pixels):
    network.eval()
    by_function = advpt.attack("pgd3-ce@8", lambda images: network(images), pixels, LABELS)
    assert torch.equal(by_function, advpt.attack("pgd3-ce@8", network, pixels, LABELS))
    with pytest.raises(AttackError, match="no method embed"):
        advpt.attack("pgd3-fkl@8", network, pixels, LABELS)
    network.embed = network.layers
    assert advpt.attack("pgd3-fkl@8", network, pixels, LABELS).shape == pixels.shape
    assert advpt.attack("pgd3-ce@8", network, pixels[:0], LABELS[:0]).shape == (0, 3, 8, 8)


def test_draws_are_by_key_and_not_by_place_where_keys_are_given(network, pixels):
    network.eval()
    names = list("abcdef")
    whole = advpt.attack("pgd3-ce@8", network, pixels, LABELS, keys=names)
    parts = [advpt.attack("pgd3-ce@8", network, pixels[i:j], LABELS[i:j], keys=names[i:j]) for i, j in ((0, 4), (4, 6))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)
    assert not torch.allclose(advpt.attack("pgd3-ce@8", network, pixels[4:], LABELS[4:]), whole[4:], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ("pdg3-ce@8", {}, "pgd"),
        ("rap10@8", {}, "goes through no model of yours"),
        ("files:images.safetensors@8", {}, "images.safetensors|no model"),
        ("pgd3-ce@8", {"labels": LABELS.float()}, "whole labels"),
        ("pgd3-ce@8", {"labels": LABELS[:2]}, "as many whole labels"),
        ("pgd3-ce@8", {"labels": [0, 1, 2, 3, 4, 0]}, "got torch.float32 .*, list"),
        ("pgd3-ce@8", {"pixels": torch.zeros(6, 3, 8, 8).numpy()}, "expected tensors.*; got ndarray, torch.int64"),
        ("pgd3-ce@8", {"keys": ["a", "b"]}, "got 2 keys for 6 images"),
        ("pgd3-ce@8", {"pixels": torch.zeros(6, 8, 8)}, r"pixels \[b, 3, h, w\]"),
        ("pgd3-ce@8", {"pixels": torch.full((6, 3, 8, 8), 3.0)}, r"pixels in \[0, 1\], got \[3.000"),
        ("pgd3-ce@8", {"pixels": torch.zeros(6, 3, 8, 8, dtype=torch.float64)}, "float32"),
        ("pgd3-ce@8", {"model": lambda images: [images]}, "gave list for 6 images; expected a tensor of logits"),
        ("pgd3-ce@8", {"model": lambda images: images.flatten(1).mean(1)}, r"gave \[6\] for 6 images"),
    ],
)
def test_mistakes_end_in_a_sentence(network, pixels, text, change, message):
    arguments = {"model": network, "pixels": pixels, "labels": LABELS} | change
    with pytest.raises(AdvPTError, match=message):
        advpt.attack(text, **arguments)


def test_means_over_passes_have_new_draws_in_each():
    """A defense that draws by pixels gives one mean the same draw ten times; the attacker's own are ten."""
    model = advpt.zero_shot("DemoCLIP", ["zero", "one"], defense="noise/eps=64")
    images, labels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    made = [advpt.attack(f"pgd2-ce@4{more}", model, images, labels) for more in ("", "/eot2", "/eot2")]
    assert not torch.equal(made[0], made[1]) and torch.equal(made[1], made[2])


# --- evaluate -------------------------------------------------------------------------------------------------------

ATTACKS = ("pgd2-fkl@8", "pgd2-ce@8", "apgd-ce3@8:transfer")
EVAL = ("EVAL.ATTACKS", str(ATTACKS), "EVAL.PROTOCOLS", "('transfer','adaptive')", "EVAL.DEFENSES", "('rescale',)",
        "EVAL.DEFENSE_SEEDS", "2", "EVAL.EOT", "2", "BANK.CHUNK", "64")  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory, tiny_weights_file) -> tuple[Workspace, Path]:
    """A run on one's own class folders, and its evaluation by ``train.py``."""
    workspace = Workspace(tmp_path_factory.mktemp("own"), tiny_weights_file)
    quick = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "OPTIM.LR", "0.1")
    data, evaluation = own_data(workspace), workspace.folder / "evaluation"
    workspace.run(*quick, "EVAL.ATTACKS", "()", flags=data)
    workspace.run(*quick, *EVAL, output=evaluation, flags=(*data, "--eval-only", "--model-dir", str(workspace.output)))
    return workspace, evaluation


@pytest.fixture(scope="module")
def tiny_weights_file(tmp_path_factory) -> Path:
    from tests.helpers.workspace import TINY, write_weights

    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt", TINY)


def test_its_numbers_are_those_of_train_py_and_its_records_are_read_by_report(own, capsys):
    """On the same images: answers to each of them, banks, warnings; and the bank that is there is read."""
    workspace, evaluation = own
    model, output = advpt.load(workspace.output), workspace.folder / "by_evaluate"
    made = advpt.evaluate(
        model, workspace.folder / "own" / "test", attacks=ATTACKS, protocols=("transfer", "adaptive"),
        defenses=["rescale"], defense_seeds=2, eot=2, banks=workspace.folder / "fresh", output=output,
    )  # fmt: skip
    theirs = {path.name: records.read(path).result for path in sorted((evaluation / "records").glob("*.json"))}
    ours = {f"{each.name}.json": each.result for each in made}
    assert set(ours) == set(theirs) and len(ours) == 10
    for name, result in ours.items():
        expected = theirs[name]
        for part in ("clean", "robust", "images", "backbone", "prompt", "protocol", "attack", "defense", "note"):
            assert getattr(result, part) == getattr(expected, part), (name, part)
        for part in ("dataset", "split", "trainer", "seed", "shots", "flags", "hand_prompt", "attacker_knows"):
            assert getattr(result, part) == getattr(expected, part), (name, part)
    assert main(["report", str(output), str(evaluation)]) == 0
    printed = capsys.readouterr().out
    assert "own, test split, 12 images" in printed and "AdvPT" in printed and "rescale" in printed


def test_another_start_of_it_reads_its_banks(own, monkeypatch):
    workspace, _ = own
    arguments = {"attacks": ["pgd2-ce@4"], "banks": workspace.folder / "again", "subset": 6}
    model = advpt.load(workspace.output)
    (transfer, adaptive) = advpt.evaluate(model, workspace.folder / "own" / "test", **arguments)
    assert (transfer.result.protocol, adaptive.result.protocol) == ("transfer", "adaptive")
    monkeypatch.setattr(advpt.Model, "embed", None)
    monkeypatch.setattr(type(model.image), "forward", None)
    again = advpt.evaluate(model, workspace.folder / "own" / "test", **arguments)
    assert [each.id for each in again] == [transfer.id, adaptive.id] and transfer.result.clean.n == 6


def test_a_defense_at_test_time_is_measured_with_the_effort_that_is_asked_for(own):
    workspace, _ = own
    model, folder = advpt.load(workspace.output), workspace.folder / "own" / "test"
    arguments = {"attacks": ["pgd2-ce@4"], "test_time": ["ttc"], "banks": workspace.folder / "again"}
    plain = advpt.evaluate(model, folder, **arguments, defense_seeds=1)
    assert {each.result.protocol for each in plain} == {"transfer"}
    assert {each.result.defense_name for each in plain} == {"", "ttc:sound"}
    effort = {"eot": 1, "queries": 20, "adaptive_subset": 3, "defense_seeds": 1}
    made = advpt.evaluate(model, folder, **arguments, protocols=["adaptive"], **effort)
    (behind,) = [each.result for each in made if each.result.defense_name == "ttc:sound"]
    assert behind.robust.n == 3 and len(behind.robust.parts) > 3
    assert behind.config["EVAL.QUERIES"] == 20 and behind.config["EVAL.ADAPTIVE_SUBSET"] == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attacks": "pgd2-ce@4"}, ConfigError, r"attacks is 'pgd2-ce@4'; give a list, \['pgd2-ce@4'\]"),
        ({"attacks": ["pdg2-ce@4"]}, ConfigError, "pgd"),
        ({"protocols": ["adaptiv"]}, ConfigError, "Did you mean 'adaptive'"),
        ({"defenses": ["resale"]}, ConfigError, "rescale"),
        ({"querys": 3}, ConfigError, "unknown argument 'querys'. Did you mean 'queries'"),
        ({"pictures": 3}, ConfigError, "unknown argument 'pictures'"),
        ({"subset": -1}, ConfigError, "EVAL.SUBSET is -1"),
        ({"eot": 0}, ConfigError, "EVAL.EOT is 0"),
        ({"chunk": 0}, ConfigError, "chunk is 0"),
        ({"folder": "nowhere"}, DataError, "no images in nowhere"),
    ],
)
def test_mistakes_of_an_evaluation(own, arguments, error, message):
    workspace, _ = own
    model = advpt.load(workspace.output)
    with pytest.raises(error, match=message):
        advpt.evaluate(**({"model": model, "folder": workspace.folder / "own" / "test"} | arguments))


def test_other_classes_what_is_no_model_and_defended_ones(own, tmp_path):
    workspace, _ = own
    folder = workspace.folder / "own" / "test"
    (tmp_path / "heron").mkdir()
    with pytest.raises(DataError, match="no class of the model: heron; .*red fox, sea"):
        advpt.evaluate(advpt.load(workspace.output), tmp_path)
    with pytest.raises(ModelError, match="the model is 'ViT-B/16', of type str; expected a function of pixels"):
        advpt.evaluate("ViT-B/16", folder)
    with pytest.raises(ConfigError, match="has a defense of its own"):
        advpt.evaluate(advpt.load(workspace.output, defense="rescale"), folder)


# --- other libraries ------------------------------------------------------------------------------------------------

EPS, STEP, STEPS = 2, 1, 4
FROM_THE_IMAGE = f"pgd{STEPS}-ce@{EPS}/a{STEP}/none"  # no random start: theirs are switched off


@pytest.fixture(scope="module")
def digits() -> tuple[advpt.Model, Tensor, Tensor]:
    """DemoCLIP, and 200 handwritten digits with their labels."""
    from sklearn.datasets import load_digits

    model, source = advpt.zero_shot("DemoCLIP", DIGIT_NAMES, template=DIGITS.facts.template), load_digits()
    pictures = [Image.fromarray((each * 255 / 16).round().astype("uint8")) for each in source.images[:200]]
    return model, torch.stack([model.preprocess(each) for each in pictures]), torch.tensor(source.target[:200])


def accuracy(model: advpt.Model, pixels: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model(pixels).argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def ours(digits) -> Tensor:
    return advpt.attack(FROM_THE_IMAGE, *digits)


def require_agreement(digits, ours: Tensor, theirs: Tensor, points: float = 1.0) -> None:
    model, pixels, labels = digits
    assert (theirs - pixels).abs().max() <= EPS / 255 + 1e-6 and theirs.min() >= 0 and theirs.max() <= 1
    clean, mine, other = (accuracy(model, each, labels) for each in (pixels, ours, theirs))
    assert abs(mine - other) <= points and mine < clean - 5, (clean, mine, other)


def test_foolbox_agrees(digits, ours):
    foolbox = pytest.importorskip("foolbox")
    model, pixels, labels = digits
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP / 255, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, theirs, _ = attack(wrapped, pixels, labels, epsilons=EPS / 255)
    require_agreement(digits, ours, theirs)


def test_torchattack_agrees(digits, ours):
    torchattack = pytest.importorskip("torchattack")
    model, pixels, labels = digits
    attack = torchattack.PGD(model, device="cpu", eps=EPS / 255, alpha=STEP / 255, steps=STEPS, random_start=False)
    require_agreement(digits, ours, attack(pixels, labels).detach())


def test_autoattack_agrees(digits):
    """APGD-CE from one random start, the same one: the package is seeded with the number that ours seeds it with."""
    from pyautoattack.autopgd_base import APGDAttack

    model, pixels, labels = digits
    seed = SampleNoise([str(place) for place in range(len(pixels))], 0).batch_seed
    attack = APGDAttack(model, n_iter=6, norm="Linf", n_restarts=1, eps=EPS / 255, seed=seed, loss="ce", device="cpu")
    theirs = attack.perturb(pixels, labels).detach()
    require_agreement(digits, advpt.attack(f"apgd-ce6@{EPS}", model, pixels, labels), theirs)


def test_libraries_take_a_model_behind_a_defense(digits):
    """Its draws are the same for the same pixels, as attacks with a memory of losses need."""
    torchattack = pytest.importorskip("torchattack")
    model, pixels, labels = digits
    behind = advpt.Model(model.saved, defense="noise")
    attack = torchattack.PGD(behind, device="cpu", eps=EPS / 255, alpha=STEP / 255, steps=3, random_start=False)
    attacked = attack(pixels[:50], labels[:50]).detach()
    assert torch.equal(attacked, attack(pixels[:50], labels[:50]).detach())
    assert accuracy(behind, attacked, labels[:50]) < accuracy(behind, pixels[:50], labels[:50])
