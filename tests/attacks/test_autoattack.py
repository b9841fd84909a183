"""AutoAttack: the package's own numbers, for any number of classes, with nothing left behind."""

from __future__ import annotations

import importlib
import logging
import sys
import types

import pyautoattack
import pytest
import torch
from pyautoattack import checks
from torch import Tensor, nn

from advpt.attacks import SampleNoise, autoattack, parse
from advpt.attacks.autoattack import stages_for
from advpt.errors import AttackError

N = 8
IDS = [f"{i}.png" for i in range(N)]
NOISE = SampleNoise(IDS, 0)


class Net(nn.Module):
    """A small network whose decisions are easy to flip for some images and hard for others."""

    def __init__(self, classes: int, sharpness: float = 3.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(classes)
        self.first = nn.Parameter(torch.randn(192, 32, generator=g) / 192**0.5)
        self.second = nn.Parameter(sharpness * torch.randn(32, classes, generator=g))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.tanh(4 * (pixels - 0.5).flatten(1) @ self.first) @ self.second


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def labels(net: nn.Module, x: Tensor) -> Tensor:
    """What the network says, but wrong for the last two images."""
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    y[-2:] = (y[-2:] + 1) % logits.shape[1]
    return y


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Fewer iterations of the slow last stages, for us and for whoever uses the package by hand."""
    for cls, name, value in ((pyautoattack.autoattack.FABAttack_PT, "n_iter", 5),
                             (pyautoattack.autoattack.SquareAttack, "n_queries", 30)):  # fmt: skip

        def perturb(self, x, y, _cls=cls, _name=name, _value=value, _perturb=cls.perturb):
            setattr(self, _name, _value)
            return _perturb(self, x, y)

        monkeypatch.setattr(cls, "perturb", perturb)


@pytest.mark.parametrize("eps", (1.0, 2.0, 8.0))
def test_equals_the_package_by_hand(x: Tensor, eps: float) -> None:
    net = Net(11).requires_grad_(False)
    y = labels(net, x)
    out = parse(f"aa@{eps}").build()(net, x, y, NOISE)
    with torch.random.fork_rng(devices=[]):
        hand = pyautoattack.AutoAttack(net, norm="Linf", eps=eps / 255, seed=NOISE.batch_seed, version="standard")
        images, predicted = hand.run_standard_evaluation(x, y, batch_size=N)
    sys.settrace(None)
    assert torch.equal(out.images, images)
    ours = net(out.images).argmax(1)
    assert torch.equal(ours == y, predicted == y)
    assert torch.equal(out.stage >= 0, (predicted != y) & (images != x).flatten(1).any(1))
    assert 0 < int((ours == y).sum()) < N - 2 or eps > 2  # the comparison has images of both kinds


@pytest.mark.parametrize("name", ("aa", "aa-rand", "apgd-ce-t"))
@pytest.mark.parametrize("classes", (2, 3, 4, 5, 10, 37))
def test_every_number_of_classes_runs(x: Tensor, name: str, classes: int) -> None:
    net = Net(classes)
    y = labels(net, x)
    attack = parse(f"{name}@3").build()
    out = attack(net, x[:4], y[:4], SampleNoise(IDS[:4], 0))
    wrong = net(out.images).argmax(1) != y[:4]
    assert torch.equal(out.stage >= 0, wrong) and torch.equal(out.changed, wrong)
    assert int(out.stage.max()) < len(attack.parameters()["stages"])


def test_the_stages_that_few_classes_leave() -> None:
    stages = ("apgd-ce", "apgd-t", "fab-t", "square")
    assert stages_for(stages, 4) == list(enumerate(stages))
    assert stages_for(stages, 3) == [(0, "apgd-ce"), (1, "apgd-dlr"), (2, "fab-t"), (3, "square")]
    assert stages_for(stages, 2) == [(0, "apgd-ce"), (2, "fab-t"), (3, "square")]
    with pytest.raises(AttackError, match="at least two classes"):
        stages_for(stages, 1)


@pytest.mark.parametrize("text", ("aa@3", "aa@3/every", "aa-rand@3", "aa@200/l2"))
def test_nothing_is_left_behind(x: Tensor, text: str, caplog) -> None:
    net = Net(5)  # its parameters want gradients
    y = labels(net, x)
    logger = logging.getLogger("auto-attack")
    before = (logger.propagate, list(logger.handlers), torch.cuda.random.manual_seed)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    checks.funcs["grad"] = 7  # of a model that somebody attacked earlier

    def tracer(frame, event, arg):
        return None

    old = sys.gettrace()
    sys.settrace(tracer)
    try:
        parse(text).build()(net, x, y, NOISE)
        found = sys.gettrace()
    finally:
        sys.settrace(old)
    assert found is tracer
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())
    assert before == (logger.propagate, list(logger.handlers), torch.cuda.random.manual_seed)
    assert not any(checks.funcs.values())
    assert not [r for r in caplog.records if "dynamic" in r.getMessage()]


def test_an_error_leaves_nothing_behind_either(x: Tensor, monkeypatch) -> None:
    net = Net(5)
    monkeypatch.setattr(autoattack, "evaluate", lambda *a: 1 / 0)
    state, handlers = torch.get_rng_state(), list(logging.getLogger("auto-attack").handlers)
    with pytest.raises(ZeroDivisionError):
        parse("aa@3").build()(net, x, labels(net, x), NOISE)
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("auto-attack").handlers == handlers


def test_images_that_need_no_change_are_bit_identical(x: Tensor) -> None:
    net = Net(11)
    y = labels(net, x)
    out = parse("aa@2").build()(net, x, y, NOISE)
    assert not out.changed[-2:].any()  # misclassified already
    robust = net(out.images).argmax(1) == y
    assert robust.any() and not out.changed[robust].any()
    assert torch.equal(out.images[~out.changed], x[~out.changed])
    assert (out.stage[~out.changed] == -1).all() and (out.stage[out.changed] >= 0).all()


@pytest.mark.parametrize("name", ("aa", "aa-rand", "apgd-ce-t"))
def test_every_changes_all_and_only_the_rest(x: Tensor, name: str) -> None:
    net = Net(11)
    y = labels(net, x)
    some = parse(f"{name}@2").build()(net, x, y, NOISE)
    every = parse(f"{name}@2").perturbing_all().build()(net, x, y, NOISE)
    assert every.changed.all() and not some.changed.all()
    assert torch.equal(every.images[some.changed], some.images[some.changed])
    assert torch.equal(every.stage, some.stage)
    ce = torch.nn.functional.cross_entropy
    left = ~some.changed
    assert (ce(net(every.images[left]), y[left], reduction="none") > ce(net(x[left]), y[left], reduction="none")).all()
    assert every.distance.max() <= 2.001


def test_the_pair_is_the_first_half(x: Tensor) -> None:
    net = Net(11)
    y = labels(net, x)
    whole, half = (parse(f"{name}@6").build()(net, x, y, NOISE) for name in ("aa", "apgd-ce-t"))
    early = (whole.stage == 0) | (whole.stage == 1)
    assert early.any()
    assert torch.equal(early, half.changed) and torch.equal(whole.images[early], half.images[early])


def test_seed_and_ids_decide(x: Tensor) -> None:
    net = Net(11)
    y = labels(net, x)
    attack = parse("apgd-ce-t@8").build()
    one, again = (attack(net, x, y, SampleNoise(IDS, 0)).images for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, attack(net, x, y, SampleNoise(IDS, 1)).images)
    assert not torch.equal(one, attack(net, x, y, SampleNoise(IDS[::-1], 0)).images)
    assert 0 <= NOISE.batch_seed < 2**31


def test_a_random_model_needs_the_version_for_it(x: Tensor) -> None:
    net = Net(5)
    y = labels(net, x)
    g = torch.Generator().manual_seed(0)

    def random(pixels: Tensor) -> Tensor:
        return net(pixels + 0.02 * torch.randn(pixels.shape, generator=g))

    with pytest.raises(AttackError, match="other logits each time; attack it with aa-rand@3"):
        parse("aa@3").build()(random, x, y, NOISE)
    assert parse("aa-rand@3").build()(random, x, y, NOISE).changed.any()


def test_without_the_package_the_error_says_how_to_get_it(x: Tensor, monkeypatch) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(AttackError, match=r"pip install 'pyautoattack>=0.2'"):
        parse("aa@3").build()(Net(5), x, torch.zeros(N, dtype=torch.int64), NOISE)


def test_the_original_package_gives_the_same(x: Tensor, monkeypatch) -> None:
    """A stand-in with the original's interface: other names of arguments, lines through a logger of its own."""

    class Original(pyautoattack.AutoAttack):
        is_tf_model = False

        def run_standard_evaluation(self, x, y, bs=250, return_labels=False):
            self.logger.log("Warning: it seems to be a dynamic defense!")
            self.logger = self.apgd_targeted.logger = logging.getLogger("elsewhere")
            assert return_labels and not self.verbose
            return super().run_standard_evaluation(x, y, batch_size=bs)

    net = Net(11)
    y = labels(net, x)
    expected = parse("apgd-ce-t@6").build()(net, x, y, NOISE)
    real, fake = importlib.import_module, types.ModuleType("autoattack")
    fake.AutoAttack = Original

    def swapped(name: str) -> types.ModuleType:
        if name.startswith("pyautoattack"):
            raise ImportError(name)
        return {"autoattack": fake, "autoattack.checks": checks}.get(name) or real(name)

    monkeypatch.setattr(importlib, "import_module", swapped)
    attack = parse("apgd-ce-t@6").build()
    assert torch.equal(attack(net, x, y, NOISE).images, expected.images)
    assert attack.provenance() == {"autoattack": "unknown version"}


def test_what_a_bank_records() -> None:
    attack = parse("aa@8").build()
    assert attack.parameters() == {
        "name": "aa", "version": 1, "objective": "margin", "norm": "linf", "eps": 8.0,
        "stages": ["apgd-ce", "apgd-t", "fab-t", "square"], "every": False,
    }  # fmt: skip
    assert attack.provenance()["pyautoattack"].startswith("0.")
