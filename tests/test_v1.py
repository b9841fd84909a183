"""What version 1 left on disk is read and continued: settings, bank keys, a finished run, its records, a bank.

``v1/`` holds the files as version 1 wrote them, but for what was observed of the machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

import train
from advpt import additions
from advpt.attacks import parse
from advpt.backbones.clip import Architecture, Backbone, build, from_state
from advpt.backbones.load import load_backbone
from advpt.bank import statistics
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.defended_input import DefendedInput
from advpt.bank.store import MANIFEST, read_manifest
from advpt.data.images import ImageSet, Preprocessing, Sample
from advpt.defenses.spec import parse_all
from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation import run_folder
from advpt.files import digest
from advpt.prompts.classifier import Classifier
from advpt.settings import UNRECORDED_LEAVES, BackboneSettings, plain

ROOT = Path(__file__).resolve().parents[1]

V1 = Path(__file__).with_name("v1")
SMALL = Architecture(32, 32, 1, 64, 8, 77, 49408, 64, 1)


def fixed(shape: torch.Size, start: int = 0) -> torch.Tensor:
    """Numbers that are equal on every machine and in every version."""
    n = shape.numel()
    return (((torch.arange(n) * 7919 + start) % 1021).float() / 1024 - 0.5).reshape(shape)


def openai_format() -> Backbone:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build(SMALL).state_dict().items()}
    state = {name: fixed(shape, i) for i, (name, shape) in enumerate(sorted(shapes.items()))}
    return from_state("ours", state, "the test suite")


def keys(backbone: Backbone) -> dict[str, str]:
    samples = tuple(Sample(f"set/c{i % 3}/{i}.png", f"/nowhere/{i}.png", i % 3) for i in range(7))
    images = ImageSet("Set", "test", samples, ("red fox", "owl", "sea"), Preprocessing((32, 32), "bicubic"))
    size = backbone.card.embed_dim
    classifier = Classifier(fixed(torch.Size((3, size))), 100.0)
    visual = fixed(torch.Size((2, 2, backbone.card.image.width)))
    through = Classifier(classifier.features, classifier.scale, visual=visual)
    bank_cache = BankCache(Path("nowhere"), backbone, lambda: backbone, chunk=4)
    defended = DefendedInput(parse_all(("rescale",))[0].build(torch.device("cpu")), 3)
    fkl, ce, auto = (parse(text) for text in ("pgd10-fkl@8", "pgd2-ce@4/a1", "aa@4"))
    source = statistics.Source(images, "random", seed=1, chunk=4)
    return {
        "image": backbone.image_digest,
        "text": backbone.text_digest,
        "clean": bank_cache.spec(AttackRequest(images)).key,
        "fkl": bank_cache.spec(AttackRequest(images, fkl)).key,
        "ce": bank_cache.spec(AttackRequest(images, ce, classifier, 1)).key,
        "autoattack": bank_cache.spec(AttackRequest(images, auto, classifier)).key,
        "defended": bank_cache.spec(AttackRequest(images, ce, classifier), defended).key,
        "visual": bank_cache.with_visual_prompts(visual).spec(AttackRequest(images, ce, through)).key,
        "statistics": statistics.folder_of(Path(), statistics.spec(backbone, visual, source)).name,
        "amp": BankCache(Path("nowhere"), backbone, lambda: backbone, precision="amp")
        .spec(AttackRequest(images, fkl))
        .key,
    }


@pytest.mark.parametrize("model", ["DemoCLIP", "OpenAI's format"])
def test_digests_and_bank_keys_are_those_of_v1(model):
    backbone = load_backbone(BackboneSettings("DemoCLIP", "", False)) if model == "DemoCLIP" else openai_format()
    assert keys(backbone) == json.loads((V1 / "keys.json").read_text())[model]


def words(folder: Path, *more: str) -> list[str]:
    """The command of the run in ``v1/run``; what the yaml files said then stands in its configuration."""
    settings = json.loads((V1 / "run" / "config.json").read_text())
    settings |= json.loads((V1 / "run" / "done.json").read_text())["evaluation"]
    settings |= {"VERBOSE": False, "DATALOADER.NUM_WORKERS": 0}
    pairs = [word for name, value in settings.items() for word in (name, str(value))]
    flags = ["--trainer", "AdvPT", "--seed", "1", "--output-dir", str(folder), "--skip-done"]
    return ["--root", str(folder.parent / "data"), *flags, *pairs, *more]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(V1 / "run", tmp_path / "run"))


def test_a_finished_run_is_done_already(folder):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        assert train.main(words(folder)) == 0, out.getvalue()
    assert "done already" in out.getvalue() and not run_folder.problems(folder)
    assert (folder / "config.json").read_bytes() == (V1 / "run" / "config.json").read_bytes()


def test_its_folder_takes_an_activation_that_says_what_it_meant_and_refuses_another(folder):
    def cfg(*more: str):
        return train.setup_cfg(train.parse_args(words(folder, *more)))

    run_folder.claim(folder, cfg("MODEL.ACTIVATION", "quickgelu"))
    assert run_folder.is_done(folder, cfg("MODEL.ACTIVATION", "quickgelu"))
    with pytest.raises(RecordError, match="MODEL.ACTIVATION: the folder has '', this run 'gelu'"):
        run_folder.claim(folder, cfg("MODEL.ACTIVATION", "gelu"))


def test_its_records_hold_the_configuration_that_a_new_one_would(folder):
    settings = {
        k: v for k, v in plain(train.setup_cfg(train.parse_args(words(folder)))).items() if k not in UNRECORDED_LEAVES
    }
    for path in sorted((folder / "records").glob("*.json")):
        result = records.read(path).result.to_json()
        assert result["config"] == settings and result["config_digest"] == digest(settings)


def test_its_bank_is_read(tmp_path):
    (tmp_path / MANIFEST).write_bytes((V1 / "bank_manifest.json").read_bytes())
    spec = read_manifest(tmp_path)["spec"]
    assert spec["adversarial_set"]["attack"]["eps"] == 16.0
    assert additions.omit(spec, additions.BANK_FIELDS) == spec  # what v1 wrote is no addition
