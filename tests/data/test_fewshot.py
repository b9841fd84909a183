"""Few-shot subsets are CoOp's, byte for byte, and nothing but split and seed decides them."""

from __future__ import annotations

import hashlib
import json
import os
import random
from functools import cache
from pathlib import Path

import pytest

from advpt.data import catalog, fewshot, split
from advpt.data.split import Row, Split

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / os.environ.get("ADVPT_TEST_DATA", "../shared/data")

# data set, shots, seed, train images and digest, val images and digest; made from the published few-shot lists, but
# those of Caltech101 and StanfordCars from the official splits by Dassl's own draw
GOLDEN = """
OxfordPets 1 1 37 cd2df5bce89f6d43 37 d7ffbf1be71ad442
OxfordPets 16 1 592 711e62ca7ba4bf69 148 b75fc02100f37a51
OxfordPets 16 2 592 3ecc09fd23ef3845 148 6d954be12352e3e9
OxfordPets 16 3 592 45933e694768aaab 148 fb9f327e6bdd6bb5
OxfordFlowers 1 1 102 2daab14963c6ec10 102 4d89ce5311edccf0
OxfordFlowers 16 1 1632 ea366f552e24a82b 408 3a88b427e7b187eb
OxfordFlowers 16 2 1632 3966d8c7701959cc 408 c14f6cff29a850b7
OxfordFlowers 16 3 1632 d027071e2f771db1 408 c05b4617c2ae8656
Food101 1 1 101 cae5ee579995b772 101 6780bdba44afe8d7
Food101 16 1 1616 8bcab0ea1c2dde7d 404 0c299214865cccac
Food101 16 2 1616 f898246681fe85b9 404 df956a77f86bcf20
Food101 16 3 1616 3ef34fafd55ae98e 404 50764b9eb7fc1a6c
SUN397 1 1 397 3a247583723308c8 397 d48f55309b17bf56
SUN397 16 1 6352 4f0fcf0ddbbe248d 1588 e1255316553e6966
SUN397 16 2 6352 f2f3a27dc8e89744 1588 e80ed9243257ceca
SUN397 16 3 6352 8a3a0e667f28c472 1588 1acfa85b2b868383
DescribableTextures 1 1 47 b6fe093e7582761b 47 15a11c6b2c668d67
DescribableTextures 16 1 752 daf3b28e531fbc4b 188 9ef81bd9b8f31885
DescribableTextures 16 2 752 a34259006a2af32a 188 82e7c16834cbe39f
DescribableTextures 16 3 752 d4a9dc52a372cccc 188 17e14a57620535f1
EuroSAT 1 1 10 07843a86e8278a7d 10 1973d460e843d983
EuroSAT 16 1 160 ad260707da9107f1 40 f171ab42c4e4c55c
EuroSAT 16 2 160 212e6c8813227418 40 6741b81e637a61cd
EuroSAT 16 3 160 9dad8ac018414f09 40 e428abf9f2933efb
UCF101 1 1 101 8d32f53fb5eab2a9 101 bf70c9c64e894f02
UCF101 16 1 1616 b88bd6d2db741f87 404 6499ec117e625487
UCF101 16 2 1616 a510bb0001f043a5 404 6e94bbb892da9b1f
UCF101 16 3 1616 6bfebd6fbe0806ac 404 f08db7c0e2d6981c
Caltech101 1 1 100 33173bedf9adcd53 100 d8cdaf6e3fcfdfff
Caltech101 16 1 1600 e60a836bd33cbba3 400 53555d3fce94587d
Caltech101 16 2 1600 62be9f804c23dea9 400 0ac3f0ace7d75ed1
Caltech101 16 3 1600 8c465c68bff43c6e 400 bf481ac8e217d48d
StanfordCars 1 1 196 d35e1547dbda23ce 196 6d79c97cfabdc30e
StanfordCars 16 1 3136 f7d56096c7921e7a 784 edeb0808f53c4619
StanfordCars 16 2 3136 c8392ec0f0d4a698 784 831f6ef98ba7c20d
StanfordCars 16 3 3136 d5d533f8b5c5caf8 784 38ae4c6127e51931
"""


@cache
def official(name: str) -> Split:
    facts = catalog.get(name)
    assert facts.split is not None
    path = DATA / "splits" / facts.split.filename
    if not path.is_file():
        pytest.skip(f"{path} is not here; set ADVPT_TEST_DATA to the folder that has splits/")
    return split.read(path)[0]


def digest(rows: tuple[Row, ...]) -> str:
    return hashlib.sha256("\n".join(row[0] for row in rows).encode()).hexdigest()[:16]


@pytest.mark.parametrize("line", GOLDEN.strip().splitlines(), ids=lambda line: " ".join(line.split()[:3]))
def test_published_lists_are_reproduced(line: str) -> None:
    name, shots, seed, *expected = line.split()
    whole = official(name)
    random.seed(12345)  # what others draw must not matter
    found = fewshot.select(whole, int(shots), int(seed))
    assert [str(len(found.train)), digest(found.train), str(len(found.val)), digest(found.val)] == expected


def numbered(*sizes: int) -> tuple[Row, ...]:
    return tuple((f"{label}/{i}", label, str(label)) for label, size in enumerate(sizes) for i in range(size))


def test_the_reference_draw_of_dassl() -> None:
    chosen = fewshot.sample(numbered(20, 3, 20), 4, random.Random(1))
    assert [row[0] for row in chosen] == [
        *("0/4", "0/18", "0/2", "0/8"),
        *("1/0", "1/1", "1/2"),
        *("2/3", "2/15", "2/14", "2/18"),
    ]


def test_val_continues_the_generator_of_train_with_at_most_four_shots() -> None:
    rows = numbered(20, 3, 20)
    one = fewshot.select(Split(rows, rows, rows), 1, 1)
    assert [row[0] for row in one.train] == ["0/4", "1/2", "2/2"]
    assert [row[0] for row in one.val] == ["0/8", "1/0", "2/15"]
    assert len(fewshot.select(Split(rows, rows, rows), 16, 1).val) == 4 + 3 + 4


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    whole = Split(numbered(20, 20), numbered(9, 9), ())
    random.seed(7)
    before = random.getstate()
    first = fewshot.select(whole, 4, 0)
    assert random.getstate() == before
    assert fewshot.select(whole, 4, 0) == first != fewshot.select(whole, 4, 1)
    assert fewshot.select(whole, 4, -1) != fewshot.select(whole, 4, -1)


def test_list_is_written_once_and_re_made_when_it_disagrees(tmp_path: Path) -> None:
    whole = Split(numbered(20, 20), numbered(9, 9), ())
    path = fewshot.list_path(tmp_path, 2, 3)
    assert path == tmp_path / "split_fewshot" / "shot_2-seed_3.json"

    def record(split_digest: str = "d", seed: int = 3) -> str:
        chosen = fewshot.select(whole, 2, seed)
        return fewshot.record(chosen, path, split_digest=split_digest, shots=2, seed=seed)

    assert record() == ""
    content = json.loads(path.read_text())
    assert content["train"] == [row[0] for row in fewshot.select(whole, 2, 3).train]
    assert (content["shots"], content["seed"], content["split_sha256"]) == (2, 3, "d")
    stamp = path.stat().st_mtime_ns
    assert record() == ""
    assert path.stat().st_mtime_ns == stamp, "a right list is left alone"

    assert record("e") == "its split_sha256 is 'd', this run has 'e'"
    assert record("e") == ""
    assert record("e", seed=4) == "its seed is 3, this run has 4"
    assert record("e") == "its seed is 4, this run has 3"
    content = json.loads(path.read_text())
    content["train"][0] = "elsewhere.jpg"
    path.write_text(json.dumps(content))
    assert record("e") == "its 'train' list is not what the split and the seed give"
    for broken in ("", "[]", '{"format": 1'):
        path.write_text(broken)
        assert "it is not" in record("e")
        assert record("e") == ""
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no partial file is left"
