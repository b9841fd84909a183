"""Right inputs in the wrong place, or in other units: each is refused with a sentence, or warned of and recorded. No
number comes out of one in silence, and nothing that was there is changed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from PIL import Image

from advpt.attacks import parse
from advpt.backbones.clip import from_state
from advpt.data import imagenet
from advpt.errors import AdvPTError, ConfigError, PromptError, WeightsError
from advpt.evaluation import record as records
from advpt.prompts.learner import PromptLearner
from advpt.settings import (
    DEFAULTS,
    RANGES,
    ContextSettings,
    extend_cfg,
    leaves,
    merge_overrides,
    merge_yaml,
    require_ranges,
)
from tests.helpers.injection import content, times
from tests.helpers.workspace import NAMES, YAML, Workspace

KEPT = ("records/*", "prompt_learner/*", "done.json", "data.json", "config.json")  # of a run's folder, for ever
QUICK = ("OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "('pgd2-ce@8',)", "EVAL.PROTOCOLS", "('transfer',)")


def refused(code: int, printed: str, *words: str) -> str:
    """What is wrong with an answer that is to be a refusal; "" where it is a sentence with these words."""
    right = code == 2 and "Traceback" not in printed and all(word in printed.partition("error: ")[2] for word in words)
    return "" if right else f"status {code}: {printed[-1500:]}"


def results(run: Path) -> list[dict]:
    """The result of each of a run's records."""
    read = [records.read(path).result.to_json() for path in sorted((run / "records").glob("*.json"))]
    assert read, f"no record in {run}"
    return read


def numbers(run: Path) -> list[object]:
    """Which images were right, clean and attacked."""
    return [[result["clean"]["outcome"], result["robust"]["outcome"]] for result in results(run)]


def warnings(run: Path) -> str:
    return "\n".join(line for result in results(run) for line in result["warnings"])


def count(tally: Callable[..., None], fault: str, wrong: list[str], injected: int, *, confusion: bool = True) -> None:
    """One row of the table; the first that was wrong is shown."""
    wrong = [line for line in wrong if line]
    print(*wrong[:1])
    tally(fault, injected, max(0, injected - len(wrong)), wrong=len(wrong), confusion=confusion)


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """A workspace whose data are one's own folders, and a finished run on them."""

    workspace: Workspace

    @property
    def data(self) -> Path:
        return self.workspace.folder / "mine"

    def call(self, *more: str, flags: tuple[str, ...] = (), **settings) -> tuple[int, str]:
        return self.workspace.call(*QUICK, *more, flags=("--root", str(self.data), *flags), **settings)

    def copied(self, folder: Path) -> Own:
        """The same under another path, as it was before: its data, its run and its banks."""
        shutil.copytree(self.workspace.folder, folder)
        there = object.__new__(Workspace)
        there.folder, there.weights, there.output = folder, self.workspace.weights, folder / "run"
        return Own(there)


@pytest.fixture(scope="module")
def own(tmp_path_factory, tiny_file) -> Own:
    folder = tmp_path_factory.mktemp("own")
    made = Own(Workspace(folder, tiny_file))
    shutil.move(folder / "data" / "tiny_photos", made.data)
    (folder / "set.yaml").write_text('DATASET: {NAME: "ImageFolder"}\n')
    code, printed = made.call()
    assert code == 0, printed
    return made


def picture(path: Path, seed: int, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (18, 20, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, format=kind)


def other_pixels(data: Path, rng: random.Random) -> None:
    """Other photographs with the same names of files and classes."""
    for path in sorted(data.glob("*/*/*.png")):
        picture(path, rng.randrange(10**6))


def other_test_pixels(data: Path, rng: random.Random) -> None:
    for path in sorted(data.glob("test/*/*.png")):
        picture(path, rng.randrange(10**6))


def another_class(data: Path, rng: random.Random) -> None:
    name, number = rng.choice(NAMES), rng.randrange(100)
    for part in ("train", "val", "test"):
        (data / part / name).rename(data / part / f"{name} {number}")


def swapped_classes(data: Path, rng: random.Random) -> None:
    one, other = rng.sample(NAMES, 2)
    for part in ("train", "val", "test"):
        (data / part / one).rename(data / part / "between")
        (data / part / other).rename(data / part / one)
        (data / part / "between").rename(data / part / other)


def one_label(data: Path, rng: random.Random) -> None:
    one, other = rng.sample(NAMES, 2)
    part = rng.choice(("train", "test"))
    (data / part / one / "0.png").rename(data / part / other / "moved.png")


def grown(data: Path, rng: random.Random) -> None:
    for i in range(rng.randint(1, 4)):
        picture(data / rng.choice(("train", "test")) / rng.choice(NAMES) / f"more{i}.png", rng.randrange(10**6))


def shrunk(data: Path, rng: random.Random) -> None:
    paths = sorted((*data.glob("train/*/*.png"), *data.glob("test/*/*.png")))
    for path in rng.sample(paths, rng.randint(1, 4)):
        if len(list(path.parent.iterdir())) > 1:
            path.unlink()


OTHERS = (other_pixels, other_test_pixels, another_class, swapped_classes, one_label)
SIZES = (grown, shrunk)


@pytest.mark.parametrize(
    ("fault", "changes", "full"),
    (
        ("another data set behind the same path", OTHERS, 30),
        ("grown and shrunk data, same folder", SIZES, 20),
    ),
    ids=("other", "size"),
)
def test_a_folder_goes_on_with_its_own_data_alone(own: Own, tmp_path, tally, fault, changes, full):
    wrong, n = [], times(full)
    for i in range(n):
        rng, here = random.Random(i), own.copied(tmp_path / str(i))
        before = content(here.workspace.output, *KEPT)
        changes[i % len(changes)](here.data, rng)
        flags = rng.choice(((), ("--skip-done",)))
        wrong.append(refused(*here.call(flags=flags), "on other data than those in", "--output-dir"))
        if content(here.workspace.output, *KEPT) != before:
            wrong.append(f"{changes[i % len(changes)].__name__}: a refused start changed the folder")
        shutil.rmtree(here.workspace.folder)
    code, printed = own.copied(tmp_path / "itself").call(flags=("--skip-done",))
    wrong.append("" if code == 0 and "done already" in printed else f"its own data under another path: {printed}")
    count(tally, fault, wrong, n + 1)


@pytest.mark.parametrize(
    ("fault", "changes", "full"),
    (
        ("another data set of the same name, same banks", OTHERS, 20),
        ("grown and shrunk data, same banks", SIZES, 12),
    ),
    ids=("other", "size"),
)
def test_no_row_of_a_bank_is_of_other_data(own: Own, tmp_path, tally, fault, changes, full):
    """A run on the other data, in a folder of its own beside the same banks, has the numbers that it has with fresh
    banks; or it is told that the banks are of other images."""
    wrong, n = [], times(full)
    for i in range(n):
        rng, here = random.Random(i), own.copied(tmp_path / str(i))
        changes[i % len(changes)](here.data, rng)
        code, printed = here.call(output=tmp_path / "beside")
        if code:
            wrong.append(refused(code, printed, "was made from other image files", "DATASET.TITLE", "BANK.DIR"))
            code, printed = here.call("DATASET.TITLE", "the other", output=tmp_path / "beside")
        assert code == 0, printed
        assert here.call("BANK.DIR", str(tmp_path / "fresh"), output=tmp_path / "alone")[0] == 0
        if numbers(tmp_path / "beside") != numbers(tmp_path / "alone"):
            wrong.append(f"{changes[i % len(changes)].__name__}: other numbers than with fresh banks")
        for folder in (here.workspace.folder, tmp_path / "beside", tmp_path / "alone", tmp_path / "fresh"):
            shutil.rmtree(folder)
    count(tally, fault, wrong, n)


ODD = {  # name of a file in a class folder, its format (None: no picture), whether it is read
    "a.jfif": ("JPEG", True),
    "b.jpe": ("JPEG", True),
    "without suffix": ("PNG", True),
    "2021/deep.png": ("PNG", True),
    "UPPER.PNG": ("PNG", True),
    "raw.nef": (None, False),
    "x.heic": (None, False),
    "copy.png.bak": ("PNG", False),
    "empty": (None, False),
    "notes caf\udce9.txt": (None, False),
}


def test_files_that_are_skipped(own: Own, tmp_path, tally):
    """Every image that can be read counts; every file that is left out is in the log and in the record."""
    wrong, n = [], 0
    for i in range(times(16)):
        rng, here = random.Random(i), own.copied(tmp_path / str(i))
        names = rng.sample(sorted(ODD), rng.randint(1, 4))
        for name in names:
            kind, _ = ODD[name]
            path = here.data / "test" / rng.choice(NAMES) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(path, i, kind) if kind else path.write_bytes(b"" if name == "empty" else b"\0text")
        code, printed = here.call(trainer="ZeroshotCLIP", output=tmp_path / "run")
        assert code == 0, printed
        (result,) = results(tmp_path / "run")
        more = sum(ODD[name][1] for name in names)
        out = [name.replace("\udce9", r"\xe9") for name in names if not ODD[name][1]]
        if result["clean"]["n"] != 12 + more:
            wrong.append(f"{names}: {result['clean']['n']} images were tested, expected {12 + more}")
        told = warnings(tmp_path / "run")
        wrong += [
            f"{name} was left out without a word: {told}" for name in out if name not in told or name not in printed
        ]
        n += len(names)
        shutil.rmtree(tmp_path / "run")
        shutil.rmtree(here.workspace.folder)
    count(tally, "files of a class that are skipped", wrong, n)


# --- prompts --------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "end": (),
    "front": ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "front"),
    "middle": ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "middle"),
    "class-specific": ("TRAINER.ADVPT.CSC", "True"),
    "short": ("TRAINER.ADVPT.N_CTX", "2"),
}
EXPLICIT = {
    name: {"TRAINER.ADVPT.CLASS_TOKEN_POSITION": "end", "TRAINER.ADVPT.CSC": "False", "TRAINER.ADVPT.N_CTX": "4"}
    | dict(zip(words[::2], words[1::2]))
    for name, words in LAYOUTS.items()
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_file) -> Workspace:
    """A run in every layout; the configuration's file says nothing of the prompt."""
    workspace = Workspace(tmp_path_factory.mktemp("tuned"), tiny_file)
    (workspace.folder / "tiny.yaml").write_text(YAML.replace("TRAINER: {ADVPT: {N_CTX: 4}, ", "TRAINER: {"))
    for name, words in LAYOUTS.items():
        words = words if name == "short" else (*words, "TRAINER.ADVPT.N_CTX", "4")
        workspace.run(*QUICK, *words, output=workspace.folder / name)
    return workspace


def evaluate(workspace: Workspace, name: str, folder: Path, *more: str) -> tuple[int, str]:
    return workspace.call(
        *QUICK, *more, output=folder, flags=("--eval-only", "--model-dir", str(workspace.folder / name))
    )


def test_prompts_of_another_layout(tuned: Workspace, tmp_path, tally):
    pairs = [(a, b) for a in LAYOUTS for b in LAYOUTS if a != b]
    pairs.sort(key=lambda pair: sum(name in ("class-specific", "short") for name in pair))  # equal shapes first
    wrong, chosen = [], pairs[: times(len(pairs))]
    for a, b in chosen:
        words = [word for pair in EXPLICIT[b].items() for word in pair]
        wrong.append(refused(*evaluate(tuned, a, tmp_path / f"{a}-{b}", *words), "tuned with"))
        assert not list(tmp_path.glob(f"{a}-{b}/records/*.json"))
    for name in LAYOUTS:  # and in the layout that they were tuned in, where nothing is given
        code, printed = evaluate(tuned, name, tmp_path / name)
        same = code == 0 and numbers(tmp_path / name) == numbers(tuned.folder / name)
        wrong.append("" if same else f"{name}, nothing given: {printed[-500:]}")
    count(tally, "prompts of another layout", wrong, len(chosen) + len(LAYOUTS))


def test_prompts_of_another_backbone(tuned: Workspace, tmp_path, tally):
    """Another text tower is refused. Another image tower under prompts in the text alone is recorded."""
    state = torch.load(tuned.weights, weights_only=True)
    wrong, n = [], times(12)
    for i in range(n):
        torch.manual_seed(i)
        tower = ("text", "image", "both")[i % 3]
        for key, value in state.items():
            of_text = not key.startswith("visual.")
            if value.is_floating_point() and value.dim() == 2 and tower in ("both", "text" if of_text else "image"):
                state = state | {key: value + 0.1 * torch.randn_like(value)}
        torch.save(state, tmp_path / "other.pt")
        code, printed = evaluate(tuned, "end", tmp_path / str(i), "MODEL.WEIGHTS", str(tmp_path / "other.pt"))
        if tower != "image":
            wrong.append(refused(code, printed, "text", "tuned"))
        else:
            told = warnings(tmp_path / str(i)) if code == 0 else printed
            wrong.append("" if "image" in told and "prompt" in told else f"another image tower, and no word: {told}")
        state = torch.load(tuned.weights, weights_only=True)
    count(tally, "prompts of another backbone", wrong, n)


def test_unknown_tensors(tuned: Workspace, tmp_path, tally):
    """Tensors that the layout has no place for belong to another prompt; CoOp's token_prefix does not."""
    backbone = from_state("tiny", torch.load(tuned.weights, weights_only=True), "tiny")
    context = ContextSettings(4, False, "", "end", "fp32")
    learner = PromptLearner(backbone.text, list(NAMES), context, None, backbone.card)
    ctx, wrong, n = learner.ctx.detach().clone(), [], times(100)
    names = ("compound_prompts_text.0", "proj.weight", "meta_net.linear1.weight", "ctx_deep", "visual", "ctx2", "bias")
    for i in range(n):
        rng = random.Random(i)
        more = rng.sample(names, rng.randint(1, 3))
        front = rng.choice(("", "module.", "prompt_learner.", "module.prompt_learner."))
        state = {f"{front}{name}": torch.ones(rng.randint(1, 3), 64) for name in more}
        state |= {f"{front}ctx": torch.ones(4, 64)}
        state |= {f"{front}token_prefix": torch.ones(3, 1, 64)} if rng.random() < 0.5 else {}
        try:
            learner.load_context(state, "model.pth.tar-5")
            wrong.append(f"{sorted(state)} was taken")
        except PromptError as error:
            unnamed = [name for name in more if name not in str(error)]
            wrong.append(f"{unnamed} is not named: {error}" if unnamed else "")
        if not torch.equal(learner.ctx, ctx):
            wrong.append(f"{sorted(state)} was refused, and its ctx taken")
    shutil.copytree(tuned.folder / "end", tmp_path / "run")
    path = next((tmp_path / "run" / "prompt_learner").glob("model.pth.tar-*"))
    saved = torch.load(path, weights_only=False)
    saved["state_dict"]["compound_prompts_text.0"] = torch.ones(2, 64)
    torch.save(saved, path)
    flags = ("--eval-only", "--model-dir", str(tmp_path / "run"))
    wrong.append(refused(*tuned.call(*QUICK, output=tmp_path / "eval", flags=flags), "compound_prompts_text.0"))
    count(tally, "unknown tensors in a prompt", wrong, n + 1)


def test_weights_by_other_names(tuned: Workspace, tmp_path, tally):
    state, wrong, n = torch.load(tuned.weights, weights_only=True), [], times(20)
    for i in range(n):
        rng = random.Random(i)
        front = ".".join(rng.choices(("model", "clip", "net", "encoder"), k=rng.randint(1, 3))) + "."
        changed, word = rng.choice(
            (
                ({f"{front}{k}": v for k, v in state.items()}, repr(front)),
                ({f"{rng.choice(('', front))}text_model.encoder.w": state["ln_final.weight"]}, "Hugging Face"),
                ({k: v for k, v in state.items() if k.startswith("visual.")}, "MODEL.IMAGE_WEIGHTS"),
            )
        )
        try:
            from_state("tiny", changed, "w.pt")
            wrong.append(f"{sorted(changed)[:2]} was taken")
        except WeightsError as error:
            wrong.append("" if word in str(error) and "layer1" not in str(error) else str(error))
    count(tally, "weights by other names", wrong, n)


# --- settings, units, encodings -------------------------------------------------------------------------------------


READ = ("TRAINER.ZEROSHOTCLIP.", "TRAINER.ADVPT.")


def another(value: object) -> str:
    """A value of the same kind."""
    if isinstance(value, bool):
        return str(not value)
    return f"{value}x" if isinstance(value, str) else str(value + 1)


def test_settings_that_nothing_reads(own: Own, tmp_path, tally):
    """They change no number, and the record names them."""
    others = [
        (name, value)
        for name, value in sorted(DEFAULTS.items())
        if name.startswith("TRAINER.") and not name.startswith(READ) and not isinstance(value, tuple)
    ]
    for trainer in ("ZeroshotCLIP", "AdvPT"):
        assert own.call(trainer=trainer, output=tmp_path / trainer)[0] == 0
    wrong, n = [], times(24)
    for i in range(n):
        name, value = random.Random(i).choice(others)
        changed = another(value)
        trainer = ("ZeroshotCLIP", "AdvPT")[i % 2]
        code, printed = own.call(name, changed, trainer=trainer, output=tmp_path / f"{i}")
        told = warnings(tmp_path / f"{i}") if code == 0 else printed
        if f"{name} changes nothing" not in told or f"{name} changes nothing" not in printed:
            wrong.append(f"{trainer} with {name} {changed}: {told[-300:]}")
        elif numbers(tmp_path / f"{i}") != numbers(tmp_path / trainer):
            wrong.append(f"{trainer} with {name} {changed}: other numbers")
        shutil.rmtree(tmp_path / f"{i}")
    count(tally, "settings that nothing reads", wrong, n)


def test_lengths_in_other_units(tally):
    """A step, an inner or an L2 budget as a fraction of 1 is refused; in units of 1/255 the same is what it says."""
    wrong, n = [], times(1000)
    for i in range(n):
        rng = random.Random(i)
        steps, norm = rng.choice((1, 2, 10, 40, 100, 400)), rng.choice(("linf", "linf", "l2"))
        eps = rng.choice((1, 2, 4, 8, 16)) * (8 if norm == "l2" else 1)
        step = min(eps, rng.choice((1, 1.25, 2.5)) * eps / steps)
        head, tail = f"pgd{steps}-ce@", "/l2" * (norm == "l2")
        right, fraction = f"{head}{eps}/a{step:.6f}{tail}", f"{head}{eps}/a{step / 255:.8f}{tail}"
        if i % 3 == 1 and norm == "l2":
            right, fraction = f"{head}{eps}{tail}", f"{head}{eps / 255:.6f}{tail}"
        elif i % 3 == 2:
            inner = rng.choice((1, 2, 4, 8, 16))
            right, fraction = f"rap{steps}@16/n{inner}", f"rap{steps}@16/n{inner / 255:.6f}"
        parse(right)
        try:
            wrong.append(f"{fraction} was taken for {parse(fraction)}")
        except ConfigError as error:
            wrong.append("" if "looks like a fraction of 1" in str(error) else str(error))
    count(tally, "lengths as fractions of 1", wrong, n)


def test_numbers_out_of_range(tally):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    values, wrong, n = dict(leaves(cfg)), [], times(300)
    for i in range(n):
        rng = random.Random(i)
        names = rng.sample(sorted(RANGES), rng.randint(1, 3))
        trial = cfg.clone()
        for name in names:
            wanted, value = RANGES[name], values[name]
            low = wanted.low - rng.choice((1, 5, 1000)) if not wanted.above else rng.choice((0, -1))
            low = rng.choice((low, wanted.high + 1)) if wanted.high < 1e9 else low
            number = int(low) if isinstance(value, int) else float(low)
            merge_overrides(trial, [name, repr((number,) * max(1, wanted.length)) if wanted.length else repr(number)])
        try:
            require_ranges(trial)
            wrong.append(f"{names} passed")
        except ConfigError as error:
            wrong.append("" if all(f"{name} is " in str(error) for name in names) else str(error))
    count(tally, "numbers out of range", wrong, n, confusion=False)


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1")


@pytest.mark.parametrize("kind", ("class names", "yaml"))
def test_text_in_another_encoding(tmp_path, tally, kind):
    names = imagenet.shipped_names()
    text = {
        "class names": "".join(f"{wnid} {name} é\n" for wnid, name in names.items()),
        "yaml": "OPTIM:\n  LR: 0.5\nTRAINER:\n  ADVPT:\n    CTX_INIT: déjà vu\n",
    }[kind]
    wrong, n, path = [], times(60), tmp_path / "file"
    for i in range(n):
        rng = random.Random(i)
        encoding = rng.choice(ENCODINGS)
        path.write_bytes(text.replace("\n", rng.choice(("\n", "\r\n"))).encode(encoding))
        try:
            if kind == "yaml":
                cfg = get_cfg_default()
                extend_cfg(cfg)
                merge_yaml(cfg, path)
                right = cfg.TRAINER.ADVPT.CTX_INIT == "déjà vu"
            else:
                right = imagenet.read_names(path) == {wnid: f"{name} é" for wnid, name in names.items()}
            wrong.append("" if right and encoding.startswith("utf-8") else f"{encoding} was read as something else")
        except AdvPTError as error:
            told = "UTF-16" if encoding.startswith("utf-16") else "not in UTF-8"
            as_due = not encoding.startswith("utf-8") and str(path) in str(error) and told in str(error)
            wrong.append("" if as_due else f"{encoding}: {error}")
    count(tally, f"{kind} in another encoding", wrong, n)
