"""Whatever stands in a file or on a command line: it works, or a project exception says what is wrong where."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.utils.torchtools import read_latest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from advpt.attacks import parse_all
from advpt.backbones.clip import architecture_of, from_state, read_state
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.store import open_bank, read_manifest, read_shard
from advpt.checkpoints import load_checkpoint, read_state_dict
from advpt.data import fewshot, manifest
from advpt.data.images import MOST_PIXELS, Preprocessing, read_image
from advpt.data.layout import Report
from advpt.data.split import Split
from advpt.data.split import read as read_split
from advpt.defenses.spec import parse as parse_defense
from advpt.detectors import LossWatch
from advpt.errors import AdvPTError, DataError
from advpt.evaluation import record as records
from advpt.evaluation import run_folder
from advpt.evaluation.record import Record
from advpt.evaluation.run_folder import claim
from advpt.files import digest
from advpt.prompts import exchange
from advpt.results.exhibit import CLEAN, Cell, Table, TableRow, robust
from advpt.results.groups import groups
from advpt.results.index import RecordIndex, Run
from advpt.results.render import text as text_of
from advpt.results.report import write as write_report
from advpt.settings import extend_cfg, leaves, merge_overrides, merge_yaml, plain
from advpt.tuning.progress import Progress
from tests.helpers.banks import make_clip, make_images
from tests.helpers.injection import SCALE, times
from tests.helpers.records import accuracy
from trainers.advpt import PromptTrainer

pytestmark = pytest.mark.filterwarnings("ignore")


def judged(work: Callable[[], object], *named: str, kind: type[BaseException] = AdvPTError) -> str:
    """The sentence that ``work`` ends with, "" where it works; any other exception fails the test."""
    try:
        work()
    except kind as error:
        said = str(error)
        assert len(said) > 20 and "Traceback" not in said, said
        for name in named:
            assert name in said, f"{name!r} is not named in: {said}"
        return said
    return ""


def check(tally, what: str, full: int, cases: st.SearchStrategy, body: Callable[[Any], object]) -> None:
    """``body`` on so many generated cases."""
    count = 0

    @settings(
        max_examples=times(full),
        deadline=None,
        database=None,
        derandomize=SCALE < 1,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Any) -> None:
        nonlocal count
        count += 1
        body(case)

    run()
    tally(f"bad input: {what}", count)


# --- generated values -----------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "../../etc/passwd", "/etc/passwd", "<script>", "a\0b", "\ud800", "NaN", "é" * 50, -1, 0, 2**70]
    ),
)
junk = st.recursive(
    scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=6), x, max_size=3), max_leaves=6
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where something in a JSON value can be replaced."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> tuple[Any, str]:
    """A copy of a JSON value with something replaced or removed, and the outermost name that this was in."""
    value, top = copy.deepcopy(whole), ""
    for _ in range(draw(st.integers(1, 2))):
        if not (everywhere := places(value)):
            break
        *path, last = draw(st.sampled_from(everywhere))
        node = value
        for name in path:
            node = node[name]
        if isinstance(node, dict) and draw(st.booleans()) and draw(st.booleans()):
            del node[last]
        else:
            node[last] = draw(junk)
        top = str((*path, last)[0])
    return value, top


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes cut short, with some changed, removed or put in between, or something else altogether."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=80))
    if kind <= 3:
        return whole[: draw(st.integers(0, len(whole)))]
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.integers(0, 3))
        if how == 0:
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif how == 1:
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at] = draw(st.integers(0, 255))
        if not data:
            break
    return bytes(data)


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")


# --- configuration --------------------------------------------------------------------------------------------------


def default_cfg():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


LEAVES = dict(leaves(default_cfg()))
words = st.one_of(
    st.text(max_size=15),
    st.sampled_from(
        [
            "1e999",
            "-1e999",
            "nan",
            "('a',)",
            "()",
            "[1,2",
            "{1}",
            "({1},)",
            "(1e999,)",
            "None",
            "True",
            "0",
            "-1",
            "1_000",
            "0x10",
            "b'a'",
            "1j",
            "('x','y')",
            "(" * 300,
            "9" * 5000,
            "...",
            "lambda: 1",
            "a\0b",
            "__import__('os').system('true')",
            "3.5",
            "pgd40@16",
            "('pgd10-ce@4','aa@8:adaptive')",
        ]
    ),
    st.integers(-5, 500).map(str),
    st.floats().map(str),
)


def read_as_a_trainer_does(cfg) -> None:
    PromptTrainer.check_cfg(object.__new__(PromptTrainer), cfg)
    digest(plain(cfg))  # what a run's folder and its records keep


def test_settings(tally):
    known = sorted(LEAVES)
    ours = [name for name in known if name.split(".")[0] in ("BANK", "EVAL") or name.startswith("TRAINER.ADVPT")]
    keys = (
        st.sampled_from(ours) | st.sampled_from(known) | st.text(max_size=12) | st.sampled_from(["BANK", "BANK.CHUNKS"])
    )

    def body(pairs: list[tuple[str, str]]) -> None:
        cfg = default_cfg()
        flat = [word for pair in pairs for word in pair]
        if judged(lambda: merge_overrides(cfg, flat), "bad settings"):
            assert dict(leaves(cfg)) == LEAVES, "nothing was changed"
        else:
            judged(lambda: read_as_a_trainer_does(cfg))

    check(tally, "settings", 2400, st.lists(st.tuples(keys, words), min_size=1, max_size=3), body)


def test_yaml_files(tmp_path, tally):
    path = tmp_path / "trainer.yaml"
    whole = (
        "_BASE_: base.yaml\nOPTIM: {LR: 0.1, MAX_EPOCH: 3}\nBANK: {ATTACK: pgd10-fkl@8}\nEVAL: {ATTACKS: ['aa@8']}\n"
    )
    (tmp_path / "base.yaml").write_text("TRAINER: {ADVPT: {N_CTX: 4}}\n")
    odd = st.sampled_from(
        [
            "a: [",
            "? :",
            "- 1",
            "2001-99-99",
            "OPTIM: 2001-99-99",
            "OPTIM: {LR: .inf}",
            "OPTIM: {LR: .nan}",
            "!!python/object/apply:os.system ['true']",
            "_BASE_: trainer.yaml",
            "_BASE_: [1]",
            "_BASE_: /",
            '_BASE_: "a\\0b"',
            "OPTIM: 3",
            "1: 2",
            "null: {a: b}",
            "{" * 2000,
            "&a [*a]",
            "OPTIM: &x {y: *x}",
            "BANK: {DIR: 3}",
            "EVAL: {ATTACKS: [1, {a: b}]}",
            "DATASET: {NAME: [a]}",
            "a: 1:2:3",
        ]
    )
    content = (
        odd.map(str.encode) | damaged(whole.encode()) | st.text(max_size=30).map(lambda t: t.encode("utf-8", "replace"))
    )

    def body(data: bytes) -> None:
        path.write_bytes(data)
        cfg = default_cfg()
        if not judged(lambda: merge_yaml(cfg, path), "trainer.yaml"):
            judged(lambda: read_as_a_trainer_does(cfg))

    check(tally, "yaml files", 700, content, body)


tokens = [
    "pgd",
    "aa",
    "apgd",
    "fgsm",
    "cw",
    "rap",
    "mifgsm",
    "difgsm",
    "aa-rand",
    "apgd-ce-t",
    "-ce",
    "-fkl",
    "-kl",
    "-margin",
    "-target",
    "@",
    "/",
    ",",
    ":",
    "1",
    "8",
    "40",
    "0.03",
    "8/255",
    "a1",
    "r3",
    "l2",
    "none",
    "gaussian",
    "every",
    "eot10",
    "sound",
    "paper",
    "released",
    "adaptive",
    "transfer-all",
    "-",
    "e",
    "nan",
    "inf",
    "1e9",
    "_",
    " ",
    "٣",
    "0",
    "99999999999999999999",
]


def test_attack_texts(tally):
    built = st.lists(st.sampled_from(tokens), min_size=1, max_size=8).map("".join)
    near = st.tuples(
        st.sampled_from(tokens[:10]),
        st.integers(0, 200),
        st.sampled_from(tokens[10:16]),
        st.floats(-1, 300) | st.integers(),
    ).map(lambda t: f"{t[0]}{t[1]}{t[2]}@{t[3]}")

    def body(text: str) -> None:
        def work() -> None:
            for spec in parse_all(text):
                assert parse_all(str(spec)) == [spec], "what is printed means the same"

        said = judged(work)
        assert not said or re.search(r"attack|eps|profile|objective|option", said), said

    check(tally, "attack texts", 2500, built | near | st.text(max_size=20), body)


def test_defense_texts(tally):
    parts = [
        "rescale",
        "super",
        "diffpure",
        ":mustafa",
        ":advpt",
        ":ddpm",
        ":sde",
        "/",
        "sigma",
        "=",
        "t",
        "75",
        "0.05",
        "nan",
        "-1",
        "+",
        "inf",
        "weights",
        "../x",
        "true",
        "min",
        "max",
        "scale",
    ]
    built = st.lists(st.sampled_from(parts), min_size=1, max_size=8).map("".join)

    def body(text: str) -> None:
        said = judged(lambda: str(parse_defense(text)))
        assert not said or "defense" in said, said

    check(tally, "defense texts", 900, built | st.text(max_size=20), body)


# --- what describes data --------------------------------------------------------------------------------------------


def test_split_files(tmp_path, tally):
    row = [[f"c{i}/{i}.jpg", i % 3, f"class {i % 3}"] for i in range(6)]
    whole = {"train": row, "val": [["v.jpg", 0, "class 0"]], "test": [["t.jpg", 1, "class 1"]]}
    path = tmp_path / "split_zhou_X.json"
    ways = st.one_of(
        changed(whole).map(lambda c: json.dumps(c[0]).encode("utf-8", "replace")),
        damaged(json.dumps(whole).encode()),
        st.sampled_from([b"<!DOCTYPE html><p>quota", b"[" * 5000, b"null", b"", b"\xef\xbb\xbf{}"]),
    )

    def body(data: bytes) -> None:
        path.write_bytes(data)

        def work() -> None:
            split, _ = read_split(path)
            for rows in split.parts().values():
                assert all(not Path(r[0]).is_absolute() and ".." not in Path(r[0]).parts for r in rows)
            fewshot.select(split, 2, 1)

        judged(work, "split_zhou_X.json")

    check(tally, "split files", 1200, ways, body)


def test_manifests_of_data_sets(tmp_path, tally):
    from advpt.data import catalog

    facts = catalog.CATALOG["pets"] if hasattr(catalog, "CATALOG") else None
    whole = {
        "format": 1,
        "dataset": "X",
        "date": "2026",
        "sources": [{"what": "images", "checked": ["md5"]}],
        "extra": 3,
        "folders": {"images": [3, 4]},
        "split": {"sha256": "a" * 64, "file": "s.json"},
        "counts": {"train": 3},
    }
    path = tmp_path / manifest.NAME
    report = SimpleNamespace(folders={"images": (3, 4)}, facts=facts or SimpleNamespace(split=None), notes=[])

    def body(case: tuple[Any, str]) -> None:
        put(path, case[0])
        judged(
            lambda: digest(manifest.manifest(tmp_path)) if _finite(case[0]) else manifest.manifest(tmp_path),
            manifest.NAME,
        )
        manifest.known_extra(tmp_path)
        assert isinstance(manifest.changes(tmp_path, report), list)

    assert Report
    check(tally, "manifests of data sets", 500, changed(whole), body)


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def test_few_shot_lists(tmp_path, tally):
    rows = tuple((f"{i}.jpg", i % 2, f"c{i % 2}") for i in range(6))
    subset = Split(rows, (), ())
    path, told = tmp_path / "shot_1-seed_1.json", {"split_digest": "d", "shots": 1, "seed": 1}
    fewshot.record(subset, path, **told)
    whole = path.read_bytes()

    def body(data: bytes) -> None:
        path.write_bytes(data)
        fewshot.record(subset, path, **told)
        assert json.loads(path.read_bytes()) == json.loads(whole), "the right one is there afterwards"

    check(tally, "few-shot lists", 300, damaged(whole), body)


# --- banks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    top = tmp_path_factory.mktemp("bank")
    pictures, backbone = make_images(top / "images", 6), make_clip()
    bank_cache = BankCache(top / "banks", backbone, lambda: backbone, chunk=4)
    bank_cache.get(pictures)
    return bank_cache.folder(bank_cache.spec(AttackRequest(pictures)))


def test_bank_manifests(bank, tmp_path, tally):
    whole = json.loads((bank / "manifest.json").read_text())
    folder = tmp_path / "bank"
    folder.mkdir()
    for part in bank.glob("part-*"):
        (folder / part.name).write_bytes(part.read_bytes())

    def body(case: tuple[Any, str], signed: bool) -> None:
        value, _ = case
        if signed and isinstance(value, dict) and "spec" in value and _finite(value["spec"]):
            value["key"] = digest(value["spec"])  # as somebody would who wants it to be taken
        put(folder / "manifest.json", value)
        judged(lambda: open_bank(folder, None, verify=True), str(folder))
        judged(lambda: open_bank(folder, whole["spec"], verify=False), str(folder))

    cases = st.tuples(changed(whole), st.booleans())
    check(tally, "bank manifests", 600, cases, lambda case: body(*case))
    put(folder / "manifest.json", whole)
    assert len(open_bank(folder, None, verify=True)) == 6 and read_manifest(folder) == whole


def test_bank_shards(bank, tmp_path, tally):
    whole, key = (bank / "part-00000.safetensors").read_bytes(), bank.name
    path = tmp_path / "part-00000.safetensors"

    def body(data: bytes) -> None:
        path.write_bytes(data)
        said = judged(lambda: read_shard(path, key, check=True), "part-00000.safetensors")
        assert said or data == whole, "a changed shard was taken"
        judged(lambda: read_shard(path, key, check=False), "part-00000.safetensors")

    check(tally, "bank shards", 500, damaged(whole), body)


# --- results --------------------------------------------------------------------------------------------------------

PGD = robust("pgd40-fkl@16")


def a_record() -> dict[str, Any]:
    part = accuracy(torch.arange(10) < 6)
    touched = {k: v for k, v in part.items() if k != "outcome"}
    return {
        "split": "test",
        "dataset": "OxfordPets",
        "trainer": "AdvPT",
        "seed": 1,
        "backbone": {"name": "ViT-B/16"},
        "images": {"n": 10, "digest": "d", "part": False, "subset": 0},
        "clean": part,
        "protocol": PGD.protocol,
        "robust": part | {"untouched": 10.0, "on_perturbed": touched, "largest_linf": 8.0, "lost": 5.0},
        "attack": {"spec": PGD.attack, "asked": PGD.attack, "objective": "fkl", "eps": 16.0, "name": "pgd"},
        "defenses": [],
        "config": {"BANK.ATTACK": "pgd10-fkl@8"},
        "comparable": True,
        "training": {"images": 3, "curve": []},
        "warnings": ["one"],
        "note": "",
    }


def test_records_and_the_report_of_them(tmp_path, tally):
    """Records that somebody made: each is refused with its path, or stands in tables and on the page, escaped."""
    folder = tmp_path / "run" / "records"
    folder.mkdir(parents=True)
    run = Run("r", tmp_path / "run", 1, "done", "a run")
    rows = (TableRow("B", "AdvPT", "none", "clean", "-", (Cell(("r",), CLEAN, None),)),
            TableRow("B", "AdvPT", "none", "pgd", "transfer", (Cell(("r",), PGD, None),)))  # fmt: skip
    table = Table("t", "T", "about", ("Pets",), rows)

    def body(case: tuple[Any, str]) -> None:
        result, _ = case
        if _finite(result):
            put(
                folder / "x.json",
                {"schema": 1, "id": digest(result), "result": result, "observed": {"finished": "<b>"}},
            )
        else:
            put(folder / "x.json", {"schema": 1, "id": "?", "result": result, "observed": 3})
        judged(lambda: records.read(folder / "x.json"), "x.json")

        def tables() -> None:
            for group in groups(RecordIndex().collect([tmp_path])):
                text_of(group.table())

        judged(tables)
        text = write_report([table], {"r": run}, tmp_path / "report", title="t", about="a").page.read_text(
            "utf-8", "replace"
        )
        assert "<script" not in text

    check(tally, "records", 900, changed(a_record()), body)


def test_what_a_run_leaves(tmp_path, tally):
    """done.json, config.json, progress.json, prompt.json: of another run, damaged, or made up."""
    cfg = default_cfg()
    folder = tmp_path / "run"
    records.write(Record.from_json(a_record(), {}), folder)
    claim(folder, cfg)
    run_folder.mark_done(folder, cfg)
    progress = Progress(folder / "progress.json", watch=LossWatch(3))
    progress.add(1.0)
    progress.watch.epochs.append(0.5)
    progress.save()
    put(folder / "prompt.json", {"trainer": "AdvPT", "classnames": ["a"], "seed": 1})
    whole = {p.name: p.read_bytes() for p in folder.glob("*.json")}
    assert len(whole) == 4

    def body(case: tuple[str, bytes]) -> None:
        name, data = case
        (folder / name).write_bytes(data)
        judged(lambda: claim(folder, cfg), "run")
        judged(lambda: run_folder.is_done(folder, cfg))
        judged(lambda: Progress(folder / "progress.json", 1), "progress.json")
        judged(lambda: exchange.about(folder / "checkpoint"), "prompt.json")
        (folder / name).write_bytes(whole[name])

    def ways(name: str) -> st.SearchStrategy:
        remade = changed(json.loads(whole[name])).map(lambda c: json.dumps(c[0]).encode("utf-8", "replace"))
        return st.tuples(st.just(name), remade | damaged(whole[name]))

    check(tally, "files of a run", 700, st.one_of([ways(name) for name in sorted(whole)]), body)


# --- checkpoints and weights ----------------------------------------------------------------------------------------


def test_checkpoints(tmp_path, tally):
    state = {
        "state_dict": {"ctx": torch.zeros(2, 3)},
        "epoch": 1,
        "optimizer": None,
        "scheduler": None,
        "val_result": 3.0,
    }
    path = tmp_path / "model.pth.tar-1"
    torch.save(state, path)
    whole = path.read_bytes()
    (tmp_path / "checkpoint").write_text("model.pth.tar-1\n")

    def body(data: bytes) -> None:
        path.write_bytes(data)
        judged(lambda: load_checkpoint(path), "model.pth.tar-1")
        judged(lambda: exchange.read(path), "model.pth.tar-1")
        judged(lambda: read_state_dict(path, "weights"), "model.pth.tar-1")
        judged(lambda: read_latest(tmp_path), "model.pth.tar-1", kind=Exception)

    check(tally, "checkpoints", 700, damaged(whole), body)


def test_checkpoints_of_another_form(tmp_path, tally):
    path = tmp_path / "c"
    values = st.one_of(
        scalars, st.just(torch.zeros(2, 3)), st.just(torch.zeros(0)), st.just(torch.zeros((), dtype=torch.long))
    )
    forms = st.dictionaries(
        st.sampled_from(["state_dict", "epoch", "optimizer"]) | st.text(max_size=4),
        values | st.dictionaries(st.sampled_from(["ctx", "prompt_learner.ctx"]), values, max_size=2),
        max_size=3,
    )

    def body(value: Any) -> None:
        torch.save(value, path)
        judged(lambda: load_checkpoint(path), str(path))
        judged(lambda: exchange.read(path), str(path))

    check(tally, "checkpoints of another form", 300, forms | values, body)


def test_weights_of_another_form(tmp_path, tally):
    clip = make_clip()
    whole = {k: v for k, v in clip.model.state_dict().items() if "token_embedding" not in k}
    whole["token_embedding.weight"] = torch.zeros(8, 64)
    names, path = sorted(whole), tmp_path / "w.pt"
    shapes = st.sampled_from(
        [
            torch.zeros(()),
            torch.zeros(3),
            torch.zeros(2, 2),
            torch.zeros(0, 4),
            torch.zeros(1, 1, 1, 1),
            torch.zeros(5, dtype=torch.long),
            torch.full((64,), float("nan")),
        ]
    )

    def body(case: tuple[str, Any]) -> None:
        name, value = case
        state = dict(whole)
        if value is None:
            del state[name]
        else:
            state[name] = value
        torch.save(state, path)

        def work() -> None:
            found = read_state(path)
            architecture_of(found)
            from_state("own", found, str(path))

        judged(work)

    check(tally, "weights of another form", 200, st.tuples(st.sampled_from(names), shapes | st.none()), body)


# --- images ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file with this size in its header, whatever its content."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", data or zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def an_image(mode: str, size: tuple[int, int], kind: str) -> bytes:
    """A small noisy image file; b"" where the format has no such mode."""
    rng, out = np.random.default_rng(0), io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode)
    try:
        if kind == "GIF":
            image.save(out, kind, save_all=True, append_images=[image.rotate(90)])
        else:
            image.save(out, kind)
    except (OSError, ValueError):
        return b""
    return out.getvalue()


def test_images(tmp_path, tally):
    modes = st.sampled_from(["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F", "HSV"])
    sizes = st.sampled_from([(1, 1), (20_000, 10), (10, 20_000), (3, 2), (16, 16), (40, 30), (1, 300)])
    kinds = st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000"])
    good = st.builds(an_image, modes, sizes, kinds).filter(bool)
    odd = st.sampled_from(
        [
            b"",
            b"<!doctype html><title>Quota exceeded</title>",
            b"GIF89a",
            b"\xff\xd8\xff",
            png(10**5, 10**5),
            png(2**31 - 1, 1),
            png(0, 5),
            png(65_000, 1),
            png(13_000, 13_000),
            b"\x89PNG\r\n\x1a\n",
        ]
    )
    cut = good.flatmap(lambda data: damaged(data[:5000]))
    path = tmp_path / "x.jpg"

    def body(case: tuple[bytes, int, str]) -> None:
        data, side, interpolation = case
        path.write_bytes(data)

        def work() -> None:
            pixels, sha = read_image(path, Preprocessing((side, side), interpolation))
            assert pixels.shape == (3, side, side) and pixels.dtype == torch.float32 and len(sha) == 32
            assert float(pixels.min()) >= 0 and float(pixels.max()) <= 1

        judged(work, "x.jpg")

    cases = st.tuples(good | odd | cut, st.sampled_from([16, 32]), st.sampled_from(["bicubic", "bilinear", "nearest"]))
    check(tally, "images", 1000, cases, body)


@pytest.mark.parametrize("size", [(100_000, 100_000), (13_500, 13_500), (60_000, 2)])
def test_decompression_bombs_are_refused(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png(*size))
    with pytest.raises(DataError, match="bomb.png.*pixels"):
        read_image(tmp_path / "bomb.png", Preprocessing((224, 224), "bicubic"))
    assert size[0] * size[1] > MOST_PIXELS or size[0] / size[1] * 224**2 > MOST_PIXELS


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray((ramp // 257).astype(np.uint8)).save(tmp_path / "plain.png")
    deep, plain_ = (read_image(tmp_path / f"{n}.png", Preprocessing((32, 32), "bicubic"))[0] for n in ("deep", "plain"))
    assert torch.equal(deep, plain_) and deep.unique().numel() > 200


def test_the_first_picture_of_an_animation_is_the_image(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    pixels, _ = read_image(tmp_path / "a.gif", Preprocessing((16, 16), "bicubic"))
    assert torch.equal(pixels[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_there_are_ten_thousand_cases():
    """Of the full counts above, as the table sums them up."""
    here = Path(__file__).read_text()
    counts = [int(n) for n in re.findall(r'check\(tally, "[^"]+", (\d+),', here)]
    assert sum(counts) >= 10_000
