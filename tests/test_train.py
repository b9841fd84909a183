"""``train.py``: its command line, its output folder, and the settings that it warns of or refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from yacs.config import CfgNode

import train
from advpt.settings import config_names
from tests.helpers.hub import hub_repository
from tests.helpers.open_clip import VIT, changed
from tests.helpers.workspace import ROOT, context, first, own_data, parse_as_coop, results


def test_missing_model_folder_is_a_sentence(workspace):
    code, printed = workspace.call(flags=("--eval-only", "--model-dir", str(workspace.folder / "nowhere")))
    assert code == 2 and "no checkpoint at" in printed and "Traceback" not in printed


def test_a_folder_of_another_configuration_is_refused(workspace):
    workspace.run()
    before = results(workspace.output)
    code, printed = workspace.call("OPTIM.LR", "0.5")
    assert code == 2 and "OPTIM.LR: the folder has 0.01, this run 0.5" in printed
    assert results(workspace.output) == before


def test_skip_done_exits_only_when_everything_is_there(workspace, monkeypatch):
    assert "done already" not in workspace.run(flags=("--skip-done",))
    assert "done already" in workspace.run(flags=("--skip-done",))
    more = ("EVAL.ATTACKS", "('pgd2-fkl@8',)")
    assert "done already" not in workspace.run(*more, flags=("--skip-done",)), "another evaluation was asked for"
    next((workspace.output / "records").glob("test_adaptive*.json")).unlink()
    assert "done already" not in workspace.run(*more, flags=("--skip-done",)), "a record was missing"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (("EVAL.ATTACKS", "('pdg40@16',)"), "Did you mean 'pgd'"),
        (("BANK.ATTACK", "pgd10-fkl@0.03"), "write 7.65"),
        (("EVAL.PROTOCOLS", "('adaptiv',)"), "Did you mean 'adaptive'"),
        (("TRAINER.ADVPT.N_CTX", "90"), "context vectors do not fit"),
        (("TRAINER.ADVPT.N_CTXX", "3", "OPTIM.LRR", "1"), "did you mean OPTIM.LR?"),
        (("MODEL.BACKBONE.NAME", "ViT-B/61", "MODEL.WEIGHTS", ""), "Did you mean 'ViT-B/16'"),
        (("MODEL.WEIGHTS", "/nowhere.pt"), "no such file"),
        (("INPUT.INTERPOLATION", "cubic"), "bicubic"),
        (("DATASET.NAME", "TinyPhoto"), "TinyPhotos"),
        (("INPUT.SIZE", "(24, 24)"), 'INPUT.SIZE is (24, 24), but tiny reads 16 x 16 pixels; set INPUT.SIZE "(16,16)"'),
        (("OPTIM.LR", "-1"), "OPTIM.LR is -1.0; expected a number of at least 0"),
        (("DATALOADER.TRAIN_X.BATCH_SIZE", "0"), "DATALOADER.TRAIN_X.BATCH_SIZE is 0; expected a number of at least 1"),
        (("DATALOADER.K_TRANSFORMS", "2"), "DATALOADER.K_TRANSFORMS is 2; expected 1"),
        (("OPTIM.SGD_NESTEROV", "True", "OPTIM.MOMENTUM", "0"), "OPTIM cannot be used: Nesterov"),
        (("OPTIM.NAME", "adam", "OPTIM.ADAM_BETA1", "1"), "OPTIM cannot be used: Invalid beta"),
        (("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "start"), "CLASS_TOKEN_POSITION"),
        (("--verbose",), "put flags first"),
        (("BANK.DIR", "caf\udce9"), r"the name 'caf\xe9' is not UTF-8"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(workspace, bad, says):
    code, printed = workspace.call(*bad)
    assert code == 2 and says in printed and "Traceback" not in printed


@pytest.mark.parametrize("trainer", ("AdvPT", "CoOp", "APT", "FAP", "TradesFT", "ZeroshotCLIP", "LinearProbe"))
@pytest.mark.parametrize("size", ("(8, 8)", "(32, 32)", "(16, 24)"))
def test_images_of_another_size_than_clips_are_refused_before_any_is_read(workspace, trainer, size):
    code, printed = workspace.call("INPUT.SIZE", size, trainer=trainer)
    assert code == 2 and f"INPUT.SIZE is {size}, but tiny reads 16 x 16 pixels" in printed
    assert not list(workspace.folder.glob("banks/**/*.safetensors"))


@pytest.mark.parametrize("trainer", ("CoOp", "APT", "TradesFT"))
def test_training_on_images_refuses_values_that_no_loader_can_have(workspace, trainer):
    code, printed = workspace.call("DATALOADER.K_TRANSFORMS", "2", "INPUT.RRCROP_SCALE", "(0.9, 0.1)", trainer=trainer)
    assert code == 2 and "K_TRANSFORMS is 2; expected 1" in printed and "RRCROP_SCALE is (0.9, 0.1)" in printed


def test_coops_literal_command_line(workspace):
    """main.sh of CoOp, word for word, with our yaml names."""
    import train

    config = workspace.folder / "trainers" / "CoOp" / "tiny.yaml"
    config.parent.mkdir(parents=True)
    shutil.copy(workspace.folder / "tiny.yaml", config)
    argv = (
        f"--root {workspace.folder}/data --seed 1 --trainer CoOp --dataset-config-file {workspace.folder}/set.yaml "
        f"--config-file {config} --output-dir {workspace.folder}/out "
        "TRAINER.COOP.N_CTX 16 TRAINER.COOP.CSC False TRAINER.COOP.CLASS_TOKEN_POSITION end DATASET.NUM_SHOTS 1 "
        f"MODEL.WEIGHTS {workspace.weights} MODEL.ACTIVATION quickgelu BANK.DIR {workspace.folder}/banks"
    ).split()
    assert train.main(argv) == 0
    assert parse_as_coop(workspace.folder / "out" / "log.txt", "accuracy") >= 0


def test_default_output_folder_follows_coop(workspace, monkeypatch):
    import train

    monkeypatch.chdir(workspace.folder)
    argv = workspace.argv("EVAL.ATTACKS", "()", "DATASET.NUM_SHOTS", "2")
    at = argv.index("--output-dir")
    assert train.main(argv[:at] + argv[at + 2 :]) == 0
    run = workspace.folder / "output/tinyphotos/AdvPT/tiny_2shots/nctx4_cscFalse_ctpend/seed1"
    assert (run / "records" / "test_clean.json").is_file()


def test_every_shipped_yaml_resolves_to_what_its_name_says():
    from dassl.engine import TRAINER_REGISTRY

    import train
    from trainers.attacked import AttackedTrainer

    names = {"vit_b16": "ViT-B/16", "vit_b32": "ViT-B/32", "vit_l14": "ViT-L/14", "rn50": "RN50", "rn101": "RN101"}
    others = {path.stem for path in (ROOT / "configs" / "backbones").glob("*.yaml")} - names.keys()  # below
    folders = [path for path in (ROOT / "configs" / "trainers").iterdir() if path.is_dir()]
    for path in sorted(folder / f"{name}.yaml" for folder in folders for name in config_names(folder)):
        trainer = path.parent.name
        begins = [name for name in (*names, *others) if f"{path.stem}_".startswith(f"{name}_")]
        backbone = max(begins, key=len, default="")  # behind it: a data set, or whose recipe it is
        if backbone in others:
            continue
        cfg = train.setup_cfg(train.parse_args(["--trainer", trainer, "--config-file", str(path)]))
        expected = names.get(backbone, "DemoCLIP")
        assert expected == cfg.MODEL.BACKBONE.NAME, path
        assert cfg.INPUT.INTERPOLATION == "bicubic"
        if backbone in names:  # where the peers' authors have it, normalisation is inside the model
            peer = issubclass(TRAINER_REGISTRY.get(trainer), AttackedTrainer) or trainer.startswith(("TAPT", "TAME"))
            assert ("normalize" in cfg.INPUT.TRANSFORMS) != peer, path
        if trainer == "AdvPT" and backbone in ("vit_b16", "vit_l14"):  # the paper's settings
            assert cfg.TRAINER.ADVPT.N_CTX == 32 and cfg.OPTIM.NAME == "sgd" and cfg.OPTIM.LR_SCHEDULER == "cosine"
            assert {"vit_b16": 0.005, "vit_l14": 0.002}[backbone] == cfg.OPTIM.LR
            imagenet = "imagenet" in path.stem
            assert (0 if path.stem.endswith("_imagenet") else 1) == cfg.OPTIM.WARMUP_EPOCH, path
            assert ((5, 512) if imagenet else (100, 32)) == (cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE)
            assert (cfg.BANK.ATTACK, tuple(cfg.EVAL.ATTACKS)) == ("pgd10-fkl@8", ("pgd40-fkl@16",))


OTHERS = {
    "laion_b32": ("open_clip:ViT-B-32/laion2b_s34b_b79k", "shortest", 0.005),
    "laion_b16": ("open_clip:ViT-B-16/laion2b_s34b_b88k", "shortest", 0.005),
    "datacomp_l14": ("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "shortest", 0.002),
    "fare2_l14": ("hf-hub:chs20/fare2-clip", "shortest", 0.002),
    "fare4_l14": ("hf-hub:chs20/fare4-clip", "shortest", 0.002),
    "fare4_laion_b32": ("hf-hub:chs20/FARE4-ViT-B-32-laion2B-s34B-b79K", "shortest", 0.005),
    "siglip_b16": ("open_clip:ViT-B-16-SigLIP/webli", "squash", 0.005),
    "siglip2_b16": ("open_clip:ViT-B-16-SigLIP2/webli", "squash", 0.005),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations as the repositories have them, in a cache; no network."""
    pytest.importorskip("open_clip")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, _, _ in OTHERS.values():
        if name.startswith("hf-hub:"):
            config = json.dumps({"model_cfg": changed(VIT, vision={"image_size": 224})}).encode()
            hub_repository(tmp_path / "cache", name.removeprefix("hf-hub:"), {"open_clip_config.json": config})


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("short", OTHERS)
def test_models_that_are_not_openais_take_the_recipe_of_the_one_that_they_are_like(short: str) -> None:
    import train

    name, resize, rate = OTHERS[short]
    for trainer in ("AdvPT", "CoOp"):
        path = ROOT / "configs" / "trainers" / trainer / f"{short}.yaml"
        cfg = train.setup_cfg(train.parse_args(["--trainer", trainer, "--config-file", str(path)]))
        assert (cfg.MODEL.BACKBONE.NAME, tuple(cfg.INPUT.SIZE), cfg.INPUT.RESIZE) == (name, (224, 224), resize)
        assert trainer != "AdvPT" or (32, rate) == (cfg.TRAINER.ADVPT.N_CTX, cfg.OPTIM.LR)
    assert OTHERS.keys() == {path.stem for path in (ROOT / "configs" / "backbones").glob("*.yaml")} - {
        "vit_b16", "vit_b32", "vit_l14", "rn50", "rn101",
    }  # fmt: skip


@pytest.mark.usefixtures("hub")
def test_a_short_name_of_a_backbone_comes_on_top_of_a_trainers_yaml() -> None:
    import train

    cfg = train.setup_cfg(train.parse_args(["--trainer", "CoOp", "--backbone", "laion_b32"]))
    assert cfg.MODEL.BACKBONE.NAME == "open_clip:ViT-B-32/laion2b_s34b_b79k" and tuple(cfg.INPUT.SIZE) == (224, 224)
    assert "/laion_b32_allshots/" in cfg.OUTPUT_DIR
    cfg = train.setup_cfg(train.parse_args(["--trainer", "CoOp", "--backbone", "ViT-B/16", "INPUT.SIZE", "(224,224)"]))
    assert cfg.MODEL.BACKBONE.NAME == "ViT-B/16" and "/democlip_allshots/" in cfg.OUTPUT_DIR


def test_nothing_of_the_extras_is_imported_for_openais_models() -> None:
    code = (
        "import sys, train; train.setup_cfg(train.parse_args(['--trainer', 'AdvPT'])); import advpt.backbones.load; "
        "print([name for name in ('open_clip', 'timm', 'tokenizers', 'transformers', 'huggingface_hub') "
        "if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "names", [("red_fox", "red fox", "owl"), ("Crane", "crane", "owl"), ("crane", " crane", "owl")]
)
def test_two_classes_with_one_prompt_are_named(workspace, names):
    printed = workspace.run(flags=own_data(workspace, names))
    one, other = sorted(names[:2])
    said = f"one prompt for several classes: {one!r} (label {sorted(names).index(one)}), {other!r}"
    assert printed.index(said) < printed.index("epoch [1/3]"), "before it is tuned"
    assert any(said in text for text in first(workspace.output)["warnings"])
    workspace.run(flags=own_data(workspace, names), trainer="LinearProbe", output=workspace.folder / "probe")
    assert not any("one prompt" in text for text in first(workspace.folder / "probe")["warnings"]), (
        "it looks at no name"
    )
    workspace.run("TRAINER.ADVPT.CSC", "True", flags=own_data(workspace, names), output=workspace.folder / "csc")
    assert not any("one prompt" in text for text in first(workspace.folder / "csc")["warnings"]), "each has its own"
    workspace.run("TRAINER.ADVPT.CSC", "True", flags=own_data(workspace, names), trainer="ZeroshotCLIP",
              output=workspace.folder / "zs")  # fmt: skip
    assert any(said in text for text in first(workspace.folder / "zs")["warnings"])


def test_two_labels_of_one_name_are_named(workspace):
    from advpt.detectors import same_prompts

    assert same_prompts(["crane", "owl", "crane"], [1, 2, 1]) == [
        "one prompt for several classes: 'crane' (label 0), 'crane' (label 2) read the same, so none of them can be "
        "told from the others; give them different names"
    ]
    assert same_prompts(["a"] * 8, [0] * 8)[0].startswith(
        "one prompt for several classes: 'a' (label 0), 'a' (label 1), 'a' (label 2), 'a' (label 3), 'a' (label 4) and "
        "3 more read the same"
    )
    assert same_prompts(["a", "b"], [0, 1]) == []


def test_files_of_a_class_that_are_left_out_are_in_the_record(workspace):
    flags = own_data(workspace)
    (workspace.folder / "own" / "test" / "owl" / "x.heic").touch()
    printed = workspace.run(flags=flags, trainer="ZeroshotCLIP")
    said = "ImageFolder: test: 1 files in class folders are left out"
    assert said in printed and any(text.startswith(said) for text in first(workspace.output)["warnings"])


def ignored(folder: Path) -> list[str]:
    return [text for text in first(folder)["warnings"] if "changes nothing" in text]


IGNORED = "TRAINER.COOP.N_CTX changes nothing: AdvPT does not read it, it reads TRAINER.ADVPT.N_CTX"


def test_settings_of_another_trainers_node_are_named(workspace):
    printed = workspace.run("TRAINER.COOP.N_CTX", "16", "TRAINER.APT.PROMPT_MODE", "constant")
    assert ignored(workspace.output) == [
        IGNORED,
        "TRAINER.APT.PROMPT_MODE changes nothing: AdvPT does not read it, it reads TRAINER.ADVPT and "
        "TRAINER.ZEROSHOTCLIP",
    ]
    assert printed.index(IGNORED) < printed.index("epoch [1/3]")
    more = ("TRAINER.COOP.N_CTX", "4", "TRAINER.ADVPT.N_CTX", "4")
    workspace.run(*more, output=workspace.folder / "both")
    assert not ignored(workspace.folder / "both"), "a script for several trainers gives both"
    workspace.run("TRAINER.COOP.N_CTX", "4", "TRAINER.COOP.CLEAN_BANK", "True", trainer="CoOp",
              output=workspace.folder / "coop")  # fmt: skip
    assert not ignored(workspace.folder / "coop")


def test_a_yaml_for_another_trainer_is_named_and_one_for_both_is_not(workspace):
    text = (workspace.folder / "tiny.yaml").read_text()
    assert "ADVPT: {N_CTX: 4}, COOP" in text
    workspace.run(trainer="CoOp")
    assert not ignored(workspace.output)
    (workspace.folder / "tiny.yaml").write_text(text.replace("ADVPT: {N_CTX: 4}, COOP", "COOP"))
    workspace.run(output=workspace.folder / "other")
    assert ignored(workspace.folder / "other") == [IGNORED, IGNORED.replace("N_CTX", "PREC")]
    pairs = ("TRAINER.ADVPT.N_CTX", "4", "TRAINER.ADVPT.PREC", "fp32")  # as plans give what the yaml has elsewhere
    workspace.run(*pairs, output=workspace.folder / "plan")
    assert not ignored(workspace.folder / "plan")
    workspace.run(trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    assert not ignored(workspace.folder / "zs"), "CoOp's own command for zero-shot CLIP names CoOp's yaml"


class Watched(CfgNode):
    """A node that remembers which of its names were asked for."""

    asked: set[str] = set()  # noqa: RUF012 - of the class, as nodes are copied

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)

    def __getattr__(self, name):
        self.asked.add(name)
        return super().__getattr__(name)


def every_trainer() -> list[str]:
    return sorted(path.name for path in (ROOT / "configs" / "trainers").iterdir() if path.is_dir())


@pytest.mark.parametrize("name", every_trainer())
def test_a_trainer_reads_the_nodes_that_it_names(workspace, name, monkeypatch):
    from dassl.engine import TRAINER_REGISTRY, build_trainer

    import datasets  # noqa: F401
    import trainers  # noqa: F401

    cfg = train.setup_cfg(train.parse_args(workspace.argv(trainer=name)))
    cfg.defrost()
    nodes = TRAINER_REGISTRY.get(name).nodes()
    for node in nodes:
        if "DEPTH_VISION" in cfg.TRAINER[node]:
            cfg.TRAINER[node].DEPTH_VISION = cfg.TRAINER[node].DEPTH_TEXT = 1
        if "BLOCKS" in cfg.TRAINER[node]:
            cfg.TRAINER[node].BLOCKS = (0,)
    assert {"TAPT"} & set(nodes) == ({"TAPT"} if name.startswith("TAPT") else set())
    cfg.TRAINER = Watched(cfg.TRAINER)
    known = {each for each in cfg.TRAINER if each != "NAME"}
    cfg.freeze()
    Watched.asked = set()
    monkeypatch.setattr("trainers.advpt.require_ranges", lambda *_: None)  # which looks at every setting there is
    built = build_trainer(cfg)
    if name == "LinearProbe":
        built.test = lambda: None  # records list all settings
        built.train()  # which reads its node
    assert Watched.asked & known == set(nodes)


@pytest.mark.parametrize("words", ["False", "false", "None", "", "0", " "])
def test_words_that_are_none(workspace, words):
    workspace.run(
        "TRAINER.ADVPT.CTX_INIT", words, "TRAINER.ADVPT.N_CTX", "6", "OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()"
    )
    assert context(workspace.output, 1).shape == (6, 64), "six vectors drawn at random, and not one of a word"


def test_words_that_are_none_in_a_yaml_and_true_is_refused(workspace):
    path = workspace.folder / "tiny.yaml"
    text = path.read_text()
    for n, value in enumerate(("False", "null", "0", "")):
        path.write_text(text.replace("ADVPT: {N_CTX: 4}", f"ADVPT: {{N_CTX: 4, CTX_INIT: {value}}}"))
        output = workspace.folder / f"run{n}"
        workspace.run("OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()", output=output)
        assert context(output, 1).shape == (4, 64)
    code, printed = workspace.call("TRAINER.ADVPT.CTX_INIT", "True", output=workspace.folder / "true")
    assert code == 2 and "CTX_INIT is True; give the first words" in printed


@pytest.mark.parametrize("trainer", ["AdvPT", "CoOp", "AdvTrain"])
def test_best_val_without_validation_images_is_refused(workspace, trainer):
    best, flags = ("TEST.FINAL_MODEL", "best_val"), own_data(workspace)
    code, printed = workspace.call(*best, flags=flags, trainer=trainer)
    assert code == 2 and "chooses a checkpoint on the validation split of ImageFolder, and there is none" in printed
    assert "Use TEST.FINAL_MODEL last_step" in printed and "Evaluate on" not in printed
    assert not (workspace.folder / "banks").exists(), "before anything is made"
    (workspace.folder / "own" / "val").mkdir()
    assert workspace.call(*best, flags=flags, trainer=trainer)[0] == 2, "an empty folder is none"


@pytest.mark.parametrize("trainer", ["AdvPT", "LinearProbe"])
def test_a_set_without_images_to_train_on_is_refused(workspace, monkeypatch, trainer):
    from tests.helpers.workspace import TinyPhotos

    monkeypatch.setattr(TinyPhotos, "no_training", "all its images are tested", raising=False)
    code, printed = workspace.call(trainer=trainer)
    assert code == 2, printed
    assert "TinyPhotos cannot be trained on: all its images are tested. Evaluate there" in printed
    assert not (workspace.folder / "banks").exists(), "before anything is made"
    workspace.run("EVAL.ATTACKS", "()", trainer="ZeroshotCLIP", output=workspace.folder / "zero_shot")


def test_best_val_on_images_of_the_test_split_is_refused(workspace, monkeypatch):
    """ImageNet's validation list is its test list."""
    from tests.helpers.workspace import TinyPhotos

    built = TinyPhotos.__init__

    def shared(self, cfg):
        built(self, cfg)
        self._val = self._test

    monkeypatch.setattr(TinyPhotos, "__init__", shared)
    code, printed = workspace.call("TEST.FINAL_MODEL", "best_val")
    assert code == 2 and "and 12 of its 12 images are test images: it would choose on the test set" in printed
    monkeypatch.setattr(TinyPhotos, "__init__", built)
    workspace.run("TEST.FINAL_MODEL", "best_val", output=workspace.folder / "sound")
    flags = ("--eval-only", "--model-dir", str(workspace.folder / "sound"))
    monkeypatch.setattr(TinyPhotos, "__init__", shared)
    workspace.run("TEST.FINAL_MODEL", "best_val", output=workspace.folder / "eval", flags=flags)  # nothing is chosen
