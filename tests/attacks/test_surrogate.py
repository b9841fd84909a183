"""The attacker's own network: fitted once, kept, named in the key, and clear about what is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from advpt.attacks import parse, surrogate
from advpt.attacks.surrogate import HEAD, Recipe, Surrogate, fit_linear, load_surrogate
from advpt.backbones.clip import from_state
from advpt.bank.cache import AttackRequest, BankCache
from advpt.data.images import ImageSet
from advpt.errors import AttackError, BankError, ConfigError, WeightsError
from advpt.settings import SurrogateSettings

SMALL = SurrogateSettings("small-cnn", "")


@pytest.fixture
def coloured(images):
    """Images whose class is their colour."""
    made = images(18, 3)
    for i, sample in enumerate(made.samples):
        colour = [30 + 3 * i] * 3
        colour[sample.label] = 200
        Image.new("RGB", (34, 34), tuple(colour)).save(sample.path)
    return made


def accuracy(net: Surrogate, images) -> float:
    batch = next(images.batches(range(len(images)), len(images)))
    with torch.no_grad():
        return float((net(batch.pixels).argmax(1) == batch.labels).float().mean())


def test_a_linear_head_is_fitted_and_nothing_else_moves() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    features = torch.eye(5)[labels].repeat(1, 40) + torch.randn(300, 200, generator=g) / 4
    state = torch.get_rng_state()
    with torch.no_grad():
        found = fit_linear(features, labels, 5, HEAD)
    assert torch.equal(torch.get_rng_state(), state)
    assert found["weight"].shape == (5, 200) and not found["weight"].requires_grad
    predicted = (features @ found["weight"].T + found["bias"]).argmax(1)
    assert (predicted == labels).float().mean() > 0.95
    again = fit_linear(features, labels, 5, HEAD)
    assert all(torch.equal(found[k], again[k]) for k in found)
    other = fit_linear(features, labels, 5, dataclasses.replace(HEAD, seed=1))
    assert not torch.equal(found["weight"], other["weight"])
    assert Recipe(1e-3, 0.01, 90, 200) == HEAD  # AdvPT's recipe


def test_the_stand_in_learns_is_kept_and_says_what_it_is(coloured, tmp_path: Path, monkeypatch) -> None:
    state = torch.get_rng_state()
    net = load_surrogate(SMALL, coloured, tmp_path / "kept")
    assert torch.equal(torch.get_rng_state(), state)
    assert accuracy(net, coloured) > 0.9 and net.classes == 3
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert "stand-in" in net.facts()["about"] and net.facts()["digest"] == net.digest
    monkeypatch.setattr(ImageSet, "batches", lambda *a, **k: pytest.fail("trained again"))
    assert load_surrogate(SMALL, coloured, tmp_path / "kept").digest == net.digest


def test_other_images_are_another_network(coloured, tmp_path: Path) -> None:
    one, two = (load_surrogate(SMALL, chosen, tmp_path) for chosen in (coloured, coloured.first(9)))
    assert one.digest != two.digest and len(list(tmp_path.glob("*.safetensors"))) == 2
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="damaged.*delete it"):
        load_surrogate(SMALL, coloured, tmp_path)


def test_what_the_stand_in_is_not_for(coloured, tmp_path: Path) -> None:
    big = dataclasses.replace(coloured, preprocessing=dataclasses.replace(coloured.preprocessing, size=(224, 224)))
    with pytest.raises(ConfigError, match="small-cnn is for images of at most 64 pixels; use resnet50"):
        load_surrogate(SMALL, big, tmp_path)
    with pytest.raises(AttackError, match="no training images"):
        load_surrogate(SMALL, dataclasses.replace(coloured, samples=()), tmp_path)
    with pytest.raises(ConfigError, match="SURROGATE_WEIGHTS is for resnet50"):
        load_surrogate(SurrogateSettings("small-cnn", "x.pth"), coloured, tmp_path)


# --- ResNet-50 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
        torch.save(torchvision.models.resnet50().state_dict(), path)
    return path


def test_a_head_is_fitted_to_pooled_features(coloured, tmp_path: Path, resnet_file: Path, monkeypatch) -> None:
    settings = SurrogateSettings("resnet50", str(resnet_file))
    monkeypatch.setattr(surrogate, "HEAD", dataclasses.replace(HEAD, lr=0.05))
    net = load_surrogate(settings, coloured, tmp_path / "kept", chunk=6)
    assert net.head.weight.shape == (3, 2048) and net.features(torch.rand(2, 3, 32, 32)).shape == (2, 2048)
    assert accuracy(net, coloured) > 0.6
    assert "linear head fitted to 18 training images" in net.about
    monkeypatch.setattr(surrogate, "fit_linear", lambda *a: pytest.fail("fitted again"))
    assert load_surrogate(settings, coloured, tmp_path / "kept").digest == net.digest


def test_imagenet_keeps_the_networks_own_head(coloured, tmp_path: Path, resnet_file: Path) -> None:
    names = tuple(f"class {i}" for i in range(1000))
    imagenet = dataclasses.replace(coloured, dataset="ImageNet", classnames=names)
    net = load_surrogate(SurrogateSettings("resnet50", str(resnet_file)), imagenet, tmp_path / "kept")
    own = torch.load(resnet_file, weights_only=True)["fc.weight"]
    assert torch.equal(net.head.weight, own) and not (tmp_path / "kept").exists()
    pixels = torch.rand(2, 3, 64, 64)
    reference = torchvision.models.resnet50()
    reference.load_state_dict(torch.load(resnet_file, weights_only=True))
    normal = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        torch.testing.assert_close(net(pixels), reference.eval()(normal), atol=1e-4, rtol=1e-4)


def test_without_a_network_connection_the_error_names_file_address_and_hash(coloured, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(WeightsError) as caught:
        load_surrogate(SurrogateSettings("resnet50", ""), coloured, tmp_path)
    for part in (str(tmp_path / "hub/checkpoints/resnet50-0676ba61.pth"), surrogate.URL, "starts with 0676ba61"):
        assert part in str(caught.value)


def test_files_that_are_not_it(coloured, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such file"):
        load_surrogate(SurrogateSettings("resnet50", str(tmp_path / "none.pth")), coloured, tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match="cannot be read as weights of a ResNet-50"):
        load_surrogate(SurrogateSettings("resnet50", str(tmp_path / "text.pth")), coloured, tmp_path)
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not hold the weights of ResNet"):
        load_surrogate(SurrogateSettings("resnet50", str(tmp_path / "other.pth")), coloured, tmp_path)


# --- in the library -----------------------------------------------------------------------------------------------


def test_one_adversarial_set_serves_all_backbones(coloured, tmp_path: Path, tiny_state) -> None:
    attack, net = parse("rap3@16/late1/inner2"), load_surrogate(SMALL, coloured, tmp_path / "kept")
    other = {k: v + 0.01 * (v.is_floating_point()) for k, v in tiny_state.items()}
    banks, specs = [], []
    for name, state in (("one", tiny_state), ("two", other)):
        backbone = from_state(name, state, "the test suite")
        bank_cache = BankCache(tmp_path / "banks", backbone, lambda b=backbone: b, chunk=6, load_surrogate=lambda: net)
        specs.append(bank_cache.spec(AttackRequest(coloured, attack)))
        banks.append(bank_cache.get(coloured, attack))
    assert specs[0].adversarial_set.fields() == specs[1].adversarial_set.fields()
    attacked = specs[0].adversarial_set.fields()["attacked"]
    assert attacked["image"] == net.digest and attacked["text"] is None
    assert specs[0].key != specs[1].key and not torch.equal(banks[0].embeddings, banks[1].embeddings)
    for column in ("loss", "linf", "stage", "perturbed", "clean_correct"):
        assert torch.equal(banks[0].columns[column], banks[1].columns[column])
    assert banks[0].columns["clean_correct"].float().mean() == pytest.approx(accuracy(net, coloured))
    assert banks[0].columns["perturbed"].all()


def test_a_library_without_a_network_says_so(coloured, tmp_path: Path, tiny_clip) -> None:
    bank_cache = BankCache(tmp_path, tiny_clip, lambda: tiny_clip)
    with pytest.raises(BankError, match="a network of the attacker's own, and none was set up"):
        bank_cache.get(coloured, parse("rap3@16"))
