"""The configuration tree: what is added to Dassl's, how values are read, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dassl.config import get_cfg_default
from hypothesis import given
from hypothesis import strategies as st
from yacs.config import CfgNode

from advpt import additions
from advpt.errors import ConfigError
from advpt.settings import (
    DEFAULTS,
    LEAVES,
    RANGES,
    UNCOMPARED_LEAVES,
    UNRECORDED_LEAVES,
    BackboneSettings,
    BankSettings,
    ContextSettings,
    EvalSettings,
    Range,
    Settings,
    backbone_file,
    config_names,
    extend_cfg,
    has_config,
    leaves,
    merge_overrides,
    merge_yaml,
    plain,
    recipe,
    register,
    require_ranges,
    setting,
    table,
)
from trainers.advpt import AdvPTSettings


@pytest.fixture
def cfg() -> CfgNode:
    return make_cfg()


def make_cfg() -> CfgNode:
    """A host's tree with leaves of every kind, and ours on top."""
    host = CfgNode(
        {
            "SEED": -1,
            "OPTIM": {"LR": 0.002, "MAX_EPOCH": 10, "STEPSIZE": (-1,), "NAME": "sgd"},
            "INPUT": {"SIZE": (224, 224), "TRANSFORMS": (), "PIXEL_MEAN": [0.1, 0.2, 0.3]},
            "DATASET": {"ROOT": "", "NAME": ""},
            "MODEL": {"BACKBONE": {"NAME": ""}},
            "TRAINER": {"NAME": ""},
        }
    )
    extend_cfg(host)
    return host


def value(cfg: CfgNode, key: str) -> Any:
    return dict(leaves(cfg))[key]


# --- the tree -------------------------------------------------------------------------------------------------------


def test_our_nodes_have_the_documented_defaults(cfg: CfgNode) -> None:
    assert cfg.TRAINER.ADVPT == {
        "N_CTX": 32,
        "CSC": False,
        "CTX_INIT": "",
        "CLASS_TOKEN_POSITION": "end",
        "PREC": "fp32",
    }
    assert (cfg.BANK.DIR, cfg.BANK.ATTACK, cfg.BANK.PROFILE) == ("banks", "pgd10-fkl@8", "sound")
    assert (cfg.BANK.CHUNK, cfg.BANK.LIMIT, cfg.BANK.VERIFY) == (64, 0, True)
    assert cfg.EVAL.ATTACKS == ("pgd40-fkl@16",) and cfg.EVAL.PROTOCOLS == ("transfer",) and cfg.EVAL.DEFENSES == ()
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.TRUST_ARCHIVE) == ("", False)
    assert cfg.DATASET.SUBSAMPLE_CLASSES == "all"


def test_what_is_there_already_keeps_its_value() -> None:
    cfg = CfgNode(
        {"TRAINER": {"COOP": {"N_CTX": 4}}, "DATASET": {"SUBSAMPLE_CLASSES": "new"}, "MODEL": {"WEIGHTS": "w"}}
    )
    extend_cfg(cfg)
    assert cfg.TRAINER.COOP.N_CTX == 4 and cfg.TRAINER.COOP.PREC == "fp16"
    assert cfg.DATASET.SUBSAMPLE_CLASSES == "new" and cfg.MODEL.WEIGHTS == "w"
    merge_overrides(cfg, ["BANK.CHUNK", "7"])
    before = plain(cfg)
    extend_cfg(cfg)  # a second time changes nothing
    assert plain(cfg) == before


def test_two_configurations_share_nothing() -> None:
    one, two = make_cfg(), make_cfg()
    merge_overrides(one, ["BANK.DIR", "elsewhere", "EVAL.ATTACKS", "('aa@8',)"])
    assert two.BANK.DIR == "banks" and two.EVAL.ATTACKS == ("pgd40-fkl@16",)


def test_leaves_and_their_plain_form(cfg: CfgNode) -> None:
    names = [name for name, _ in leaves(cfg)]
    assert names == sorted(names, key=lambda n: n.split(".")) and "TRAINER.ADVPT.N_CTX" in names
    assert plain(cfg)["INPUT.SIZE"] == [224, 224] and plain(cfg)["EVAL.DEFENSES"] == []


# --- overrides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    (
        ("OPTIM.LR", "1", 1.0),
        ("OPTIM.LR", "1e-5", 1e-5),
        ("OPTIM.LR", 3, 3.0),
        ("OPTIM.MAX_EPOCH", "50", 50),
        ("DATASET.ROOT", "123", "123"),
        ("DATASET.ROOT", "1e5", "1e5"),
        ("DATASET.ROOT", "/data/it's", "/data/it's"),
        ("DATASET.ROOT", 123, "123"),
        ("DATASET.ROOT", None, ""),  # `ROOT:` in a yaml file
        ("DATASET.ROOT", "None", "None"),
        ("DATASET.ROOT", "('a',)", "('a',)"),
        ("MODEL.TRUST_ARCHIVE", "True", True),
        ("MODEL.TRUST_ARCHIVE", "true", True),
        ("MODEL.TRUST_ARCHIVE", "1", True),
        ("MODEL.TRUST_ARCHIVE", 1, True),
        ("BANK.VERIFY", "False", False),
        ("BANK.VERIFY", "0", False),
        ("INPUT.SIZE", "(32, 32)", (32, 32)),
        ("INPUT.SIZE", "[32, 32]", (32, 32)),
        ("INPUT.SIZE", [32, 32], (32, 32)),
        ("INPUT.PIXEL_MEAN", "(1, 2, 3)", [1, 2, 3]),
        ("EVAL.ATTACKS", "('pgd40@16','aa@16')", ("pgd40@16", "aa@16")),
        ("EVAL.ATTACKS", "pgd40-fkl@16", ("pgd40-fkl@16",)),
        ("EVAL.DEFENSES", "()", ()),
    ),
)
def test_values_take_the_kind_of_the_default(cfg: CfgNode, key: str, text: Any, expected: Any) -> None:
    merge_overrides(cfg, [key, text])
    found = value(cfg, key)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    (
        ("OPTIM.LR", "x", "'x' is not a number"),
        ("OPTIM.LR", "True", "'True' is not a number"),
        ("OPTIM.LR", "nan", "'nan' is not a number"),
        ("OPTIM.MAX_EPOCH", "5.5", "'5.5' is not a whole number"),
        ("OPTIM.MAX_EPOCH", "True", "'True' is not a whole number"),
        ("OPTIM.MAX_EPOCH", None, "None is not a whole number"),
        ("BANK.VERIFY", "yes", "'yes' is not True or False"),
        ("BANK.VERIFY", "2", "'2' is not True or False"),
        ("INPUT.SIZE", "32", "'32' is not a list"),
        ("INPUT.SIZE", "None", "'None' is not a list"),
        ("DATASET.ROOT", ["a"], r"\['a'\] is not a text"),
    ),
)
def test_values_of_another_kind(cfg: CfgNode, key: str, text: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: {says}"):
        merge_overrides(cfg, [key, text])


def test_all_mistakes_at_once_and_nothing_is_changed(cfg: CfgNode) -> None:
    before = plain(cfg)
    with pytest.raises(ConfigError) as caught:
        merge_overrides(
            cfg,
            [
                "BANK.CHNK",
                "8",
                "BANK.CHUNK",
                "16",
                "OPTIM.LR",
                "x",
                "QQQ",
                "1",
                "BANK",
                "3",
                "EVAL.SEED",
                "1.5",
                "LAST",
            ],
        )
    assert str(caught.value).splitlines() == [
        "bad settings:",
        "  LAST: has no value; settings come in pairs KEY VALUE",
        "  BANK.CHNK: no such key; did you mean BANK.CHUNK?",
        "  OPTIM.LR: 'x' is not a number",
        "  QQQ: no such key",
        "  BANK: no such key; did you mean BANK.DIR?",
        "  EVAL.SEED: '1.5' is not a whole number",
    ]
    assert plain(cfg) == before


def test_the_last_of_two_values_counts(cfg: CfgNode) -> None:
    merge_overrides(cfg, ["BANK.CHUNK", "3", "BANK.CHUNK", "5"])
    assert cfg.BANK.CHUNK == 5
    merge_overrides(cfg, [])


@given(st.text(max_size=12))
def test_any_text_is_taken_as_it_is_where_a_text_is_expected(text: str) -> None:
    cfg = CfgNode({"A": ""})
    merge_overrides(cfg, ["A", text])
    assert text == cfg.A


@given(st.text(max_size=12), st.sampled_from((1, 1.5, True, (1,), [2])))
def test_any_text_gives_the_kind_of_the_default_or_one_message(text: str, default: Any) -> None:
    cfg = CfgNode({"A": default})
    try:
        merge_overrides(cfg, ["A", text])
    except ConfigError as error:
        assert str(error).startswith("bad settings:\n  A: ")
        assert default == cfg.A
    else:
        assert type(cfg.A) is type(default)


# --- yaml -----------------------------------------------------------------------------------------------------------


def test_a_yaml_file(cfg: CfgNode, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "OPTIM:\n  LR: 1e-5\n  MAX_EPOCH: 5\nINPUT:\n  SIZE: (32, 32)\n  TRANSFORMS: [a, b]\nDATASET: {ROOT: 1}\n"
    )
    merge_yaml(cfg, path)
    assert cfg.OPTIM.LR == 1e-5 and cfg.OPTIM.MAX_EPOCH == 5
    assert cfg.INPUT.SIZE == (32, 32) and cfg.INPUT.TRANSFORMS == ("a", "b") and cfg.DATASET.ROOT == "1"
    path.write_text("# nothing but a comment\n")
    before = plain(cfg)
    merge_yaml(cfg, path)
    assert plain(cfg) == before


@pytest.mark.parametrize(
    ("content", "says"),
    (
        (
            b"OPTIM:\n  LRR: 1\nBANK:\n  CHUNK: x\n",
            r"OPTIM.LRR: no such key; did you mean OPTIM.LR\?\n.*BANK.CHUNK: 'x'",
        ),
        (b"OPTIM: [1\n", "is not valid yaml"),
        (b"- 1\n- 2\n", "expected a mapping of settings, found list"),
        (b"\xff\xfe\x00", "is in UTF-16"),
        (b"OPTIM: !!python/object/apply:os.system ['true']\n", "is not valid yaml"),
    ),
)
def test_mistakes_in_a_yaml_file_name_the_file(content: bytes, says: str, cfg: CfgNode, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?s)a\.yaml.*{says}"):
        merge_yaml(cfg, path)


def test_a_missing_yaml_file(cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file at .*none.yaml"):
        merge_yaml(cfg, tmp_path / "none.yaml")


# --- dataclasses ----------------------------------------------------------------------------------------------------


def test_typed_views_of_the_defaults(cfg: CfgNode) -> None:
    assert AdvPTSettings.from_cfg(cfg).context() == ContextSettings(32, False, "", "end", "fp32")
    bank = BankSettings.from_cfg(cfg)
    assert bank == BankSettings(Path("banks"), "pgd10-fkl@8", "sound", 64, "fp32", 0, True, 0, "local")
    assert bank.engine.name == "local"
    assert BackboneSettings.from_cfg(cfg) == BackboneSettings("", "", False)
    found = EvalSettings.from_cfg(cfg)
    assert found.attacks == ("pgd40-fkl@16",) and found.protocols == ("transfer",) and found.subset == 0
    for view in (found, BankSettings.from_cfg(cfg)):
        field = dataclasses.fields(view)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(view, field, None)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    (
        ("TRAINER.ADVPT.N_CTX", "0", "N_CTX is 0; at least 1"),
        (
            "TRAINER.ADVPT.CLASS_TOKEN_POSITION",
            "ends",
            "CLASS_TOKEN_POSITION: unknown value 'ends'. Did you mean 'end'",
        ),
        ("TRAINER.ADVPT.PREC", "fp8", "PREC: unknown value 'fp8'"),
        ("MODEL.ACTIVATION", "relu", "MODEL.ACTIVATION: unknown value 'relu'.*Known: gelu, quickgelu"),
        ("BANK.PROFILE", "official", "BANK.PROFILE: unknown value 'official'.*paper, released, sound"),
        ("BANK.CHUNK", "0", "BANK.CHUNK is 0"),
        ("BANK.LIMIT", "-1", "BANK.LIMIT is -1"),
        ("EVAL.SUBSET", "-5", "EVAL.SUBSET is -5"),
        ("EVAL.PROTOCOLS", "('transfer','whitebox')", "EVAL.PROTOCOLS: unknown value 'whitebox'"),
    ),
)
def test_values_out_of_range(cfg: CfgNode, key: str, text: str, says: str) -> None:
    merge_overrides(cfg, [key, text])
    with pytest.raises(ConfigError, match=says):
        AdvPTSettings.from_cfg(cfg).context()
        BackboneSettings.from_cfg(cfg)
        BankSettings.from_cfg(cfg)
        EvalSettings.from_cfg(cfg)


def test_a_home_folder_is_understood(cfg: CfgNode) -> None:
    merge_overrides(cfg, ["BANK.DIR", "~/banks"])
    assert BankSettings.from_cfg(cfg).dir == Path.home() / "banks"


def full_cfg() -> CfgNode:
    """dassl-lite's whole tree, and ours on top."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


OUT_OF_RANGE = {
    "DATALOADER.NUM_WORKERS": "-1",
    "DATALOADER.K_TRANSFORMS": "2",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "0",
    "DATALOADER.TEST.BATCH_SIZE": "-4",
    "DATASET.NUM_SHOTS": "0",
    "DATASET.VAL_PERCENT": "1.5",
    "INPUT.SIZE": "(32.0,32)",
    "INPUT.PIXEL_MEAN": "(123.7,116.3,103.5)",
    "INPUT.PIXEL_STD": "(0.0,0.3,0.3)",
    "INPUT.RRCROP_SCALE": "(0.9,0.1)",
    "INPUT.GB_K": "2",
    "INPUT.COLORJITTER_H": "0.6",
    "INPUT.NO_TRANSFORM": "True",
    "OPTIM.LR": "-1",
    "OPTIM.MOMENTUM": "9",
    "OPTIM.MAX_EPOCH": "-5",
    "OPTIM.STEPSIZE": "()",
    "OPTIM.WARMUP_EPOCH": "-2",
    "TRAIN.PRINT_FREQ": "0",
    "TRAIN.CHECKPOINT_FREQ": "-1",
    "TRAIN.CURVE_FREQ": "-1",
    "TEST.SPLIT": "training",
    "TEST.FINAL_MODEL": "best",
    "TRAINER.LINEARPROBE.C": "-1",
    "TRAINER.TRADESFT.BETA": "-6",
}


def test_values_that_no_run_can_have_are_refused_all_at_once() -> None:
    cfg = full_cfg()
    require_ranges(cfg)
    merge_overrides(cfg, [word for pair in OUT_OF_RANGE.items() for word in pair])
    with pytest.raises(ConfigError) as refused:
        require_ranges(cfg)
    lines = str(refused.value).splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == sorted(OUT_OF_RANGE)
    assert all("; expected " in line for line in lines)
    assert "  OPTIM.LR is -1.0; expected a number of at least 0" in lines
    assert "  DATALOADER.K_TRANSFORMS is 2; expected 1" in lines
    assert "  DATASET.NUM_SHOTS is 0; expected 1 or more images of each class, or -1 for all" in lines


def test_every_range_is_of_a_leaf_that_exists() -> None:
    assert set(RANGES) <= {name for name, _ in leaves(full_cfg())}


def test_every_number_of_the_hosts_optimizers_and_loaders_has_a_range() -> None:
    numbers = {n for n, v in leaves(full_cfg()) if isinstance(v, int | float) and not isinstance(v, bool)}
    read = {n for n in numbers if n.startswith(("OPTIM.", "DATALOADER.TRAIN_X.", "DATALOADER.TEST.", "TRAIN."))}
    free = {"OPTIM.SGD_DAMPNING", "DATALOADER.TRAIN_X.N_DOMAIN"}  # any number; below 1 is all domains
    assert read - free <= set(RANGES)


@pytest.mark.parametrize(
    ("wanted", "right", "wrong", "words"),
    (
        (Range(0), (0, 0.5, 1e9), (-1e-9, True, "1", float("nan")), "a number of at least 0"),
        (Range(0, 1, above=True), (0.1, 1), (0, 1.1), "a number above 0 and at most 1"),
        (Range(1, 1), (1,), (0, 2), "1"),
        (Range(1, whole=True, length=2), ((1, 2), [5, 5]), ((1,), (1, 2, 3), (1.0, 2), 3), "2 whole numbers"),
        (Range(-1, length=-1), ((1,), (1, 2.5)), ((), ("a",)), "a list of numbers of at least -1 each"),
    ),
)
def test_ranges(wanted: Range, right: tuple, wrong: tuple, words: str) -> None:
    assert all(value in wanted for value in right) and not any(value in wanted for value in wrong)
    assert words in str(wanted)


def test_a_yaml_of_another_encoding_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("OPTIM: {LR: 0.5} # déjà".encode("latin-1"))
    for read in (lambda: merge_yaml(make_cfg(), path), lambda: recipe(path)):
        with pytest.raises(ConfigError, match=r"a\.yaml is not in UTF-8 \(byte 0xe9"):
            read()
    path.write_bytes("OPTIM: {LR: 0.5} # déjà\r\n".encode("utf-8-sig"))
    cfg = make_cfg()
    merge_yaml(cfg, path)
    assert cfg.OPTIM.LR == 0.5


# --- settings that are declared beside their code -------------------------------------------------------------------


def test_the_documented_table_is_current() -> None:
    path = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
    assert path.read_text(encoding="utf-8") == table(), "make docs"


def test_what_may_change_and_what_no_record_holds() -> None:
    """Another list would be another identity of every folder, or another id of every record."""
    free = {"OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "DATALOADER.NUM_WORKERS", "TRAIN.PRINT_FREQ", "BANK.VERIFY",
            "BANK.DIR", "BANK.ENGINE", "BANK.CPUS_PER_WORKER", "BANK.GPUS_PER_WORKER", "DATASET.ROOT",
            "DATASET.TITLE", "MODEL.CUDA_GRAPHS"}  # fmt: skip
    assert free == UNCOMPARED_LEAVES
    runs = {f"TRAINER.{node}.{leaf}" for node in ("TAPT", "TAME")
            for leaf in ("CLEAN_RUN", "ADV_STATISTICS", "CLEAN_STATISTICS")}  # fmt: skip
    places = {"MODEL.WEIGHTS", "MODEL.IMAGE_WEIGHTS", "EVAL.SURROGATE_WEIGHTS"}
    assert free | places | runs == UNRECORDED_LEAVES


@pytest.fixture
def mine() -> Iterator[type[Settings]]:
    """A node of a trainer that came later; what is registered is as before afterwards."""
    tables: tuple[dict[str, Any], ...] = (LEAVES, DEFAULTS, RANGES, additions.SETTINGS)
    before = [dict(each) for each in tables]

    @dataclass(frozen=True)
    class Base(Settings):
        words: tuple[str, ...] = setting(("a",), "words", allowed=("a", "b"))
        rate: float = setting(0.5, "rate", leaf="RATE", allowed=Range(0, 1))
        folder: Path = setting(Path("~/x"), "folder")

    @register("TRAINER.MINE")
    @dataclass(frozen=True)
    class Mine(Base):
        rate: float = 0.25

        def check(self) -> None:
            if self.rate == 0.75:
                raise ConfigError("not this rate")

    yield Mine
    for each, values in zip(tables, before):
        each.clear()
        each.update(values)


def test_a_node_is_made_of_a_dataclass(mine: type[Settings]) -> None:
    cfg = make_cfg()
    assert cfg.TRAINER.MINE == {"WORDS": ("a",), "RATE": 0.25, "FOLDER": "~/x"}, "the default of the subclass"
    assert mine.from_cfg(cfg) == mine(("a",), 0.25, Path.home() / "x")
    assert LEAVES["TRAINER.MINE.RATE"].help == "rate" and RANGES["TRAINER.MINE.RATE"] == Range(0, 1)
    assert "TRAINER.MINE.RATE" not in plain(cfg), "what was written before it existed stays equal"
    assert mine.from_flat({"TRAINER.MINE.WORDS": ["b"]}).words == ("b",)
    assert table().count("## TRAINER.MINE\n") == 1


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("WORDS", "('a','c')", "TRAINER.MINE.WORDS: unknown value 'c'"),
        ("RATE", "2", "TRAINER.MINE.RATE is 2.0; expected a number of at least 0 and at most 1"),
        ("RATE", "0.75", "not this rate"),
    ],
)
def test_values_that_a_dataclass_refuses(mine: type[Settings], key: str, value: str, says: str) -> None:
    cfg = make_cfg()
    merge_overrides(cfg, [f"TRAINER.MINE.{key}", value])
    with pytest.raises(ConfigError, match=says):
        mine.from_cfg(cfg)


def test_a_field_without_help_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Bare\.words has no help text"):

        @register("TRAINER.BARE")
        @dataclass(frozen=True)
        class Bare(Settings):
            words: int = 1


def test_a_linear_probe_does_not_read_the_context_of_advpt(workspace) -> None:
    workspace.run("TRAINER.ADVPT.N_CTX", "0", "EVAL.ATTACKS", "()", trainer="LinearProbe")
    other = workspace.folder / "other"
    code, printed = workspace.call("TRAINER.ADVPT.N_CTX", "0", "EVAL.ATTACKS", "()", output=other)
    assert code == 2 and "N_CTX is 0; at least 1 context vector is needed" in printed


def write_configs(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "configs" / "trainers"


def test_a_backbone_takes_the_recipes_of_the_one_it_is_like(tmp_path):
    trainers = write_configs(
        tmp_path,
        {
            "backbones/vit.yaml": "MODEL: {BACKBONE: {NAME: vit}}",
            "backbones/robust.yaml": "_LIKE_: vit\nMODEL: {BACKBONE: {NAME: robust}}\nINPUT:\n  SIZE: (0, 0)",
            "trainers/A/vit.yaml": "OPTIM: {LR: 0.5}\nMODEL: {BACKBONE: {NAME: vit}}\nINPUT:\n  SIZE: (8, 8)",
            "trainers/A/vit_imagenet.yaml": "_BASE_: vit.yaml\nOPTIM: {MAX_EPOCH: 5}",
            "trainers/B/recipe.yaml": "OPTIM: {LR: 0.25}",
            "trainers/B/vit.yaml": "OPTIM: {LR: 0.75}",
        },
    )
    values = {
        name: recipe(trainers / f"{name}.yaml") for name in ("A/robust", "A/robust_imagenet", "B/robust", "B/vit")
    }
    assert {name: each["MODEL.BACKBONE.NAME"] for name, each in values.items()} == {
        "A/robust": "robust", "A/robust_imagenet": "robust", "B/robust": "robust", "B/vit": "",
    }  # fmt: skip
    assert values["A/robust"]["OPTIM.LR"] == 0.5 and values["A/robust"]["INPUT.SIZE"] == (0, 0)
    assert values["A/robust_imagenet"]["OPTIM.MAX_EPOCH"] == 5
    assert (values["B/robust"]["OPTIM.LR"], values["B/vit"]["OPTIM.LR"]) == (0.25, 0.75), "a recipe of its own is first"
    assert not any("_LIKE_" in each for each in values.values())
    assert config_names(trainers / "A") == ["robust", "robust_imagenet", "vit", "vit_imagenet"]
    assert has_config(trainers / "A" / "robust_imagenet.yaml") and not has_config(trainers / "A" / "robust_x.yaml")
    assert backbone_file(tmp_path, "robust") == tmp_path / "configs" / "backbones" / "robust.yaml"
    assert backbone_file(tmp_path, "ViT-B/16") is None and backbone_file(tmp_path, "../trainers/A/vit") is None
