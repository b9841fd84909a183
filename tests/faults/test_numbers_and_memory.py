"""NaN and infinity in gradients, parameters and embeddings; memory that runs out; images that vanish meanwhile."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from advpt.attacks import parse
from advpt.backbones.backbone import ImageEncoder
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from advpt.errors import AttackError, BankError, DataError, out_of_memory
from tests.helpers.banks import make_clip, make_images
from tests.helpers.injection import at_full_length, content, times
from tests.helpers.workspace import Workspace, learned
from trainers.advpt import PromptTrainer

FKL = parse("pgd2-fkl@8")
SETTINGS = ("OPTIM.MAX_EPOCH", "3", "EVAL.ATTACKS", "('pgd2-ce@8',)", "EVAL.PROTOCOLS", "('transfer',)")
BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("what", ["gradient", "parameter", pytest.param("loss", marks=at_full_length)])
def test_numbers_that_are_not_finite(workspace: Workspace, tally, what):
    """The run ends with a sentence, no file has a bad number, and without the fault it goes on exactly."""
    workspace.run(*SETTINGS)
    whole, rng, n, wrong = learned(workspace.output, 3), random.Random(0), times(40), []
    for i in range(n):
        out, bad = workspace.folder / f"{what}{i}", rng.choice(BAD)
        place, at = rng.randrange(4 * 64), (rng.randrange(3), rng.randrange(3))
        backward, update = PromptTrainer.model_backward, PromptTrainer.model_update

        def hit(self, at: tuple[int, int] = at) -> bool:
            return (self.epoch, self.batch_idx) == at

        def spoil(tensor: torch.Tensor, place: int = place, bad: float = bad) -> None:
            with torch.no_grad():
                tensor.view(-1)[place] = bad

        def spoilt_backward(self, loss, hit=hit, spoil=spoil, backward=backward, bad=bad):
            if what == "loss" and hit(self):
                loss = loss * bad
            if what == "gradient" and hit(self):
                self.prompt_learner.ctx.register_hook(lambda g: spoil(g) or g)
            backward(self, loss)

        def spoilt_update(self, *names, hit=hit, spoil=spoil, update=update):
            update(self, *names)
            if what == "parameter" and hit(self):
                spoil(self.prompt_learner.ctx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PromptTrainer, "model_backward", spoilt_backward)
            patch.setattr(PromptTrainer, "model_update", spoilt_update)
            status, said = workspace.call(*SETTINGS, output=out)
        saved = [torch.load(p, weights_only=True)["state_dict"]["ctx"] for p in out.glob("prompt_learner/model*")]
        sentence = status == 2 and "Traceback" not in said and f"epoch {at[0] + 1}" in said and "OPTIM.LR" in said
        if not (sentence and all(torch.isfinite(ctx).all() for ctx in saved)):
            wrong.append((status, at, bad, said[-1500:]))
            continue
        status, said = workspace.call(*SETTINGS, output=out)
        if status or learned(out, 3) != whole:
            wrong.append((status, "does not go on", said[-1500:]))
    print(*wrong[:2], sep="\n")
    tally(f"NaN or Inf in a {what}", n, wrong=len(wrong))


def test_embeddings_and_attack_gradients_that_are_not_finite(tmp_path, tally):
    """Nothing is written from them, and the image is named."""
    pictures, good = make_images(tmp_path / "images", 12), make_clip()
    rng, n, wrong = random.Random(0), 0, []
    for _ in range(times(60)):
        n += 1
        attack, root = rng.choice((None, parse("pgd2-fkl@8"))), tmp_path / f"banks{n}"
        row, at, bad, calls = rng.randrange(4), rng.randrange(3 if attack is None else 9), rng.choice(BAD), [0]
        forward = ImageEncoder.forward

        def spoilt(self, pixels, forward=forward, row=row, at=at, bad=bad, calls=calls):
            out, calls[0] = forward(self, pixels), calls[0] + 1
            mine = (torch.arange(len(out)) == row)[:, None] & (torch.tensor(calls[0] - 1 == at))
            return torch.where(mine, out * bad, out)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageEncoder, "forward", spoilt)
            try:
                BankCache(root, good, lambda: good, chunk=4).get(pictures, attack)
                wrong.append(("it was used", attack, at, calls))
            except (BankError, AttackError) as error:
                named = attack is not None or pictures.ids[4 * at + row] in str(error)
                if "finite" not in str(error) or not named or list(root.glob("**/*.safetensors")):
                    wrong.append((str(error), attack, at, row, list(root.glob("**/*.safetensors"))))
        if len(BankCache(root, good, lambda: good, chunk=4).get(pictures, attack)) != 12:
            wrong.append("it does not go on")
    print(wrong[:3])
    tally("NaN or Inf in an embedding", n, wrong=len(wrong))


def the_allocators_own_error() -> None:
    torch.empty(2**60)


def cudas_error() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def pythons_error() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    "fail", [the_allocators_own_error, *(pytest.param(f, marks=at_full_length) for f in (cudas_error, pythons_error))]
)
def test_memory_runs_out(workspace: Workspace, tally, fail):
    """At any forward pass: a sentence with a way out, and later the rest, bit by bit."""
    workspace.run(*SETTINGS)
    whole, rng, n, wrong = learned(workspace.output, 3), random.Random(0), times(20), []
    banks = content(workspace.folder / "banks", "**/*.safetensors", "**/manifest.json")
    for i in range(n):
        top, calls, at = workspace.folder / f"{fail.__name__}{i}", [0], rng.randrange(30)
        forward, step = ImageEncoder.forward, PromptTrainer.forward_backward

        def counted(function, calls=calls, at=at):
            def wrapped(*args):
                calls[0] += 1
                if calls[0] - 1 == at:
                    fail()
                return function(*args)

            return wrapped

        more = ("BANK.DIR", str(top / "banks"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageEncoder, "forward", counted(forward))
            patch.setattr(PromptTrainer, "forward_backward", counted(step))
            status, said = workspace.call(*SETTINGS, *more, output=top / "run")
        if calls[0] > at and not (
            status in (1, 2) and "memory" in said and "BANK.CHUNK" in said and "Trace" not in said
        ):
            wrong.append((status, said[-1500:]))
        status, said = workspace.call(*SETTINGS, *more, output=top / "run")
        mine = content(top / "banks", "**/*.safetensors", "**/manifest.json")
        if status or learned(top / "run", 3) != whole or mine != banks:
            wrong.append((status, "does not go on", said[-1500:]))
    print(*wrong[:2], sep="\n")
    tally("out of memory", n, wrong=len(wrong))


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        the_allocators_own_error()
    assert "can't allocate memory" in out_of_memory(caught.value) or "memory" in out_of_memory(caught.value)
    assert out_of_memory(MemoryError()) == "MemoryError" and not out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_vanishes_or_breaks(tmp_path, tally, monkeypatch, workers):
    """While a bank is built: its path and the next command; finished shards stay, the bank ends as it should."""
    monkeypatch.setattr(build_module, "SHARD_ROWS", 4)
    backbone, rng, n, wrong = make_clip(), random.Random(0), times(5 if workers else 40), []
    many = 8 if workers else 24
    pictures = make_images(tmp_path / "images", many)
    BankCache(tmp_path / "whole", backbone, lambda: backbone, chunk=1).get(pictures, FKL)
    whole = content(tmp_path / "whole")
    for i in range(n):
        bank_cache = BankCache(tmp_path / f"banks{i}", backbone, lambda: backbone, chunk=1, workers=workers)
        path = Path(pictures.samples[rng.randrange(many)].path)
        data = path.read_bytes()
        kind = rng.choice(("gone", "empty", "half", "text"))
        if kind == "gone":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "text": b"<html>quota</html>"}[kind])
        try:
            bank_cache.get(pictures, FKL)
            wrong.append(f"{kind}: it was used")
        except DataError as error:
            if str(path) not in str(error) or "Traceback" in str(error) or "\n" in str(error):
                wrong.append(f"{kind}: {error}")
        path.write_bytes(data)
        bank_cache.get(pictures, FKL)
        if content(bank_cache.root) != whole:
            wrong.append(f"{kind}: another bank")
    print(wrong[:3])
    tally("image vanished or broken", n, wrong=len(wrong))


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("broken", [True, pytest.param(False, marks=at_full_length)])
def test_an_image_that_vanishes_while_prompts_are_tuned_on_images(workspace: Workspace, workers, broken):
    path = workspace.folder / "data" / "tiny_photos" / "train" / "owl" / "3.png"
    open_files = PromptTrainer.prepare_training

    def later(self):  # the set was complete when it was read
        path.unlink()
        if broken:
            path.write_bytes(b"no image")
        open_files(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.coop.CoOp.prepare_training", later)
        status, said = workspace.call(*SETTINGS, "DATALOADER.NUM_WORKERS", workers, trainer="CoOp")
    assert status == 2 and str(path) in said and "Traceback" not in said, said
