"""Statistics banks: one pass equals a direct computation, and a bank of other prompts, weights or images is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advpt.bank import statistics
from advpt.bank.statistics import Source, TokenStatistics
from advpt.bank.store import MANIFEST
from advpt.cli import main
from advpt.errors import BankError, BankMismatchError, ConfigError

BLOCKS, TOKENS, WIDTH = 2, 1 + 16 + 3, 64


def prompts(seed: int = 0) -> Tensor:
    return torch.randn(BLOCKS, 3, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", (1, 7, 53))
def test_parts_make_the_whole(chunk: int) -> None:
    x = torch.randn(53, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    found = TokenStatistics()
    for part in x.split(chunk):
        found.update(part)
    assert found.count == 53
    assert torch.allclose(found.mean, x.mean(0), atol=1e-12) and torch.allclose(found.variance, x.var(0), atol=1e-12)
    uneven = TokenStatistics()
    for part in (x[:20], x[20:]):
        uneven.update(part)
    assert torch.allclose(uneven.mean, found.mean, atol=1e-12)
    assert torch.allclose(uneven.variance, found.variance, atol=1e-12)
    with pytest.raises(BankError, match="at least 2 images; there are 0"):
        _ = TokenStatistics().variance


def test_a_bank_has_the_statistics_of_every_block(tiny_clip, images, tmp_path: Path) -> None:
    some, visual = images(11), prompts()
    found = statistics.build(tiny_clip, visual, Source(some, chunk=4), tmp_path, about={"trainer": "AdvVPT"})
    assert found.mean.shape == found.variance.shape == (BLOCKS, TOKENS, WIDTH) and found.count == 11
    hidden_states: list[Tensor] = []
    (batch,) = some.batches(range(11), 11)
    tiny_clip.require_image().features(batch.pixels, visual, hidden_states)
    for block in range(BLOCKS):
        assert torch.allclose(found.mean[block], hidden_states[block].mean(0), atol=1e-5)
        assert torch.allclose(found.variance[block], hidden_states[block].var(0), atol=1e-5)
    assert torch.equal(found.mean[1, -3:], visual[1]) and float(found.variance[1, -3:].max()) < 1e-12
    assert float(found.variance[1, :-3].min()) > 0
    again = statistics.build(tiny_clip, visual, Source(some, chunk=4), tmp_path)
    assert torch.equal(again.mean, found.mean) and torch.equal(again.variance, found.variance)
    manifest = json.loads((statistics.folder_of(tmp_path, found.spec) / MANIFEST).read_text())
    assert manifest["about"] == {"trainer": "AdvVPT"} and manifest["key"] == found.key == again.key


def test_everything_that_matters_is_in_the_key(tiny_clip, images) -> None:
    some = images(5)
    specs = [
        statistics.spec(tiny_clip, visual, source)
        for visual, source in (
            (prompts(), Source(some)),
            (prompts(1), Source(some)),
            (prompts()[:, :2], Source(some)),
            (prompts(), Source(some, chunk=3)),
            (prompts(), Source(some, "random")),
            (prompts(), Source(some, "random", seed=1)),
            (prompts(), Source(some.first(3))),
            (prompts(), Source(dataclasses.replace(some, samples=some.samples[::-1]))),
        )
    ]
    assert len({json.dumps(spec, sort_keys=True) for spec in specs}) == len(specs)
    assert statistics.spec(tiny_clip, prompts(), Source(some, seed=5)) == specs[0], "whole images draw nothing"
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        Source(some, "randon")


def test_random_crops_draw_by_image(tiny_clip, images) -> None:
    some = images(6)
    one = torch.cat(list(Source(some, "random", chunk=4).batches()))
    other = torch.cat(list(Source(dataclasses.replace(some, samples=some.samples[::-1]), "random").batches()))
    assert one.shape == (6, 3, 32, 32) and torch.equal(one, other.flip(0))
    assert not torch.equal(one, torch.cat(list(Source(some).batches())))


def test_what_does_not_fit_is_refused(tiny_clip, images, tmp_path: Path) -> None:
    visual = prompts()
    found = statistics.build(tiny_clip, visual, Source(images(5)), tmp_path)
    folder = statistics.folder_of(tmp_path, found.spec)
    with pytest.raises(BankMismatchError, match=r"encoder\.visual_prompt: the bank has .*, the run asks for"):
        statistics.open_statistics(folder, statistics.encoder_fields(tiny_clip, prompts(1)))
    with pytest.raises(BankMismatchError, match="tokens: the bank has 20, the run asks for 19"):
        statistics.open_statistics(folder, statistics.encoder_fields(tiny_clip, visual[:, :2]))
    deeper = dataclasses.replace(tiny_clip.card.image, blocks=3)
    tiny_clip.card = dataclasses.replace(tiny_clip.card, image=deeper)
    with pytest.raises(BankMismatchError, match="blocks: the bank has 2, the run asks for 3"):
        statistics.open_statistics(folder, statistics.encoder_fields(tiny_clip, visual))


def test_damage_is_found(tiny_clip, images, tmp_path: Path, capsys) -> None:
    dataset_folder = tmp_path / "random" / "tiny"
    found = statistics.build(tiny_clip, prompts(), Source(images(5)), dataset_folder)
    folder = statistics.folder_of(dataset_folder, found.spec)
    assert main(["bank", "verify", str(tmp_path)]) == 0 and "token statistics" in capsys.readouterr().out
    path = folder / statistics.FILE
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BankError, match="damaged: its SHA-256 differs"):
        statistics.open_statistics(folder)
    assert main(["bank", "verify", str(tmp_path)]) == 1 and "BAD" in capsys.readouterr().out
    path.unlink()
    with pytest.raises(BankError, match=r"is missing; delete .* make it again: python -m advpt statistics RUN"):
        statistics.open_statistics(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"shards": []}))
    with pytest.raises(BankError, match="lists no file; expected part-"):
        statistics.open_statistics(folder)


def test_a_bank_is_found_by_its_prompts(tiny_clip, images, tmp_path: Path) -> None:
    some = images(5)
    for visual in (prompts(), prompts(1)):
        statistics.build(tiny_clip, visual, Source(some), tmp_path / "random" / tiny_clip.folder)
    statistics.build(tiny_clip, prompts(), Source(some, "random"), tmp_path / "other" / tiny_clip.folder)
    (one,) = statistics.find(tmp_path, tiny_clip, prompts())
    (other,) = statistics.find(tmp_path, tiny_clip, prompts(1))
    (drawn,) = statistics.find(tmp_path, tiny_clip, prompts(), "random")
    assert len({one, other, drawn}) == 3 and "other" in drawn.parts
    assert statistics.find(tmp_path, tiny_clip, prompts(2)) == []
