import pytest
from dassl.config import cfg_default, clean_cfg, get_cfg_default
from yacs.config import CfgNode


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_default_tree_has_135_leaves():
    assert len(dict(leaves(get_cfg_default()))) == 135


def test_values_and_types_of_leaves():
    tree = dict(leaves(get_cfg_default()))
    expected = {
        "VERSION": 1,
        "OUTPUT_DIR": "./output",
        "SEED": -1,
        "INPUT.SIZE": (224, 224),
        "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406],
        "INPUT.RRCROP_SCALE": (0.08, 1.0),
        "INPUT.COLORJITTER_H": 0.1,
        "DATASET.NUM_SHOTS": -1,
        "DATALOADER.TRAIN_U.SAME_AS_X": True,
        "DATALOADER.TRAIN_U.N_INS": 16,
        "DATALOADER.TEST.BATCH_SIZE": 32,
        "MODEL.HEAD.DROPOUT": 0.0,
        "OPTIM.LR": 0.0003,
        "OPTIM.SGD_DAMPNING": 0,
        "OPTIM.STEPSIZE": (-1,),
        "OPTIM.WARMUP_CONS_LR": 1e-5,
        "OPTIM.WARMUP_RECOUNT": True,
        "TEST.FINAL_MODEL": "last_step",
        "TRAINER.CDAC.RAMPUP_ITRS": 1000,
        "TRAINER.DAELDG.WEIGHT_U": 0.5,
        "TRAINER.FIXMATCH.WEIGHT_U": 1.0,
        "TRAINER.FIXMATCH.STRONG_TRANSFORMS": (),
        "TRAINER.MIXMATCH.RAMPUP": 20000,
    }
    for name, value in expected.items():
        assert tree[name] == value, name
        assert type(tree[name]) is type(value), name


def test_copies_are_independent_and_open():
    cfg = get_cfg_default()
    cfg.OPTIM.LR = 1.0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 7
    cfg.TRAINER.COOP = CfgNode({"N_CTX": 16})
    assert cfg_default.OPTIM.LR == 0.0003
    assert get_cfg_default().DATALOADER.TRAIN_X.BATCH_SIZE == 32
    assert cfg.DATALOADER.TRAIN_U.BATCH_SIZE == 32
    assert "COOP" not in get_cfg_default().TRAINER
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 0


def test_clean_cfg_keeps_one_trainer():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert sorted(cfg.TRAINER) == ["FIXMATCH", "NAME"]


def test_yacs_checks_types_on_merge():
    cfg = get_cfg_default()
    cfg.merge_from_list(["INPUT.SIZE", "[32, 32]", "OPTIM.LR", "0.002"])
    assert cfg.INPUT.SIZE == (32, 32)
    with pytest.raises(ValueError, match="mismatch"):
        cfg.merge_from_list(["OPTIM.LR", "1"])
