"""Same seed, same machine: the same bits, whoever does the work, in what order and with how many processes."""

from __future__ import annotations

import random

import torch

from advpt.attacks import parse
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from tests.helpers.banks import make_clip, make_images
from tests.helpers.injection import at_full_length, content, times
from tests.helpers.workspace import Workspace, learned

SETTINGS = ("OPTIM.MAX_EPOCH", "2", "EVAL.ATTACKS", "('pgd2-ce@8','fgsm-ce@4')")
FILES = ("**/*.safetensors", "**/manifest.json")


def test_bank_tuning_and_evaluation_twice(workspace: Workspace, tally):
    """Every file that counts: shards, manifests, parameters, optimizer, records."""
    n, wrong = times(20), 0
    first: dict[str, object] = {}
    for i in range(n + 1):
        out, banks = workspace.folder / f"run{i}", workspace.folder / f"banks{i}"
        torch.manual_seed(i)  # whatever was drawn before
        random.seed(i)
        workspace.run(*SETTINGS, "BANK.DIR", str(banks), output=out, trainer=("AdvPT", "CoOp")[i % 2 if n > 1 else 0])
        mine = learned(out, 2) | {"banks": content(banks, *FILES)}
        known = first.setdefault(("AdvPT", "CoOp")[i % 2 if n > 1 else 0], mine)
        wrong += mine != known
    tally("the same run again", n, wrong=wrong)


@at_full_length
def test_worker_processes_change_nothing(workspace: Workspace, tally):
    n, wrong = times(10), 0
    for trainer in ("AdvPT", "CoOp"):
        ends = []
        for workers in ("1", "2") if trainer == "CoOp" else ("0", "2"):  # augmentation draws in the workers, if any
            out = workspace.folder / f"{trainer}{workers}"
            workspace.run(*SETTINGS, "DATALOADER.NUM_WORKERS", workers, trainer=trainer, output=out)
            workspace.run(
                *SETTINGS, "DATALOADER.NUM_WORKERS", workers, trainer=trainer, output=out.with_name(out.name + "b")
            )
            ends.append((learned(out, 2), learned(out.with_name(out.name + "b"), 2)))
        wrong += any(a != b for a, b in ends) or (trainer == "AdvPT" and ends[0] != ends[1])
    tally("other numbers of worker processes", max(4, min(n, 4)), wrong=wrong)


def test_shards_in_any_order(tmp_path, tally, monkeypatch):
    """As several processes or machines take them."""
    monkeypatch.setattr(build_module, "SHARD_ROWS", 4)
    pictures, backbone, attack = make_images(tmp_path / "images", 22), make_clip(), parse("pgd2-fkl@8")

    def in_order(seed: int):
        def fill(work, bar):
            order = list(range(len(work.shards)))
            random.Random(seed).shuffle(order)
            for index in order:
                work.fill(index, bar.update)
            return work.built_with()

        return fill

    n, ends = times(30), []
    for i in range(n + 1):
        bank_cache = BankCache(tmp_path / f"b{i}", backbone, lambda: backbone, chunk=2, fill=in_order(i))
        bank_cache.get(pictures, attack)
        ends.append(content(bank_cache.root, *FILES))
    tally("other orders of work", n, wrong=sum(end != ends[0] for end in ends))


def test_what_the_bits_depend_on_is_recorded(workspace: Workspace):
    workspace.run(*SETTINGS)
    import json

    manifest = json.loads(next((workspace.folder / "banks").glob("**/manifest.json")).read_text())
    record = json.loads(next((workspace.output / "records").glob("*.json")).read_text())
    assert {"torch", "processor", "threads", "device"} <= manifest["built_with"].keys()
    assert {"torch", "python", "advpt"} <= record["observed"]["versions"].keys()
    assert {"machine", "cores", "device", "threads"} <= record["observed"]["host"].keys()
