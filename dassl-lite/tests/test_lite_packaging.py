"""One import name, one owner; and honest errors for what is not here."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dassl
import pytest

HOME = Path(dassl.__file__).resolve().parents[1]


def start(*folders, code="import dassl; print(dassl.__version__)", cwd=None):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders)}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_version():
    assert dassl.__version__ == "0.6.3+lite"
    described = HOME / "pyproject.toml"
    if described.is_file():
        assert tomllib.loads(described.read_text())["project"]["version"] == dassl.__version__


def test_import_alone_and_twice_on_the_path(tmp_path):
    (tmp_path / "link").symlink_to(HOME)
    shutil.copytree(HOME / "dassl", tmp_path / "copy" / "dassl")
    (tmp_path / "unrelated" / "dassl").mkdir(parents=True)  # a plain folder, no package
    for folders in ([HOME], [HOME, HOME], [HOME, tmp_path / "link"], [tmp_path / "copy", HOME]):
        done = start(*folders, tmp_path / "unrelated", tmp_path / "absent", cwd=HOME)
        assert (done.returncode, done.stdout) == (0, "0.6.3+lite\n"), done.stderr


@pytest.mark.parametrize("kind", ["package", "module", "installed"])
def test_a_foreign_package_is_not_shadowed(tmp_path, kind):
    foreign = tmp_path / "elsewhere"
    if kind == "package":
        (foreign / "dassl").mkdir(parents=True)
        (foreign / "dassl" / "__init__.py").write_text("__version__ = '0.6.3'\n")
        named = foreign / "dassl"
    elif kind == "module":
        foreign.mkdir()
        (foreign / "dassl.py").touch()
        named = foreign / "dassl.py"
    else:
        (foreign / "dassl-0.6.3.dist-info").mkdir(parents=True)
        (foreign / "dassl-0.6.3.dist-info" / "METADATA").write_text("Name: dassl\nVersion: 0.6.3\n")
        named = foreign
    done = start(HOME, foreign)
    assert done.returncode == 1
    assert "ImportError: dassl-lite" in done.stderr
    assert str(named) in done.stderr
    assert "pip uninstall" in done.stderr


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("import dassl.modeling", "backbones, heads and networks.*not included"),
        ("from dassl.modeling.ops.utils import sharpen_prob", "not included"),
        ("from dassl.engine.dg import Vanilla", "domain generalisation trainers"),
        ("from dassl.engine import FixMatch", "trainer 'FixMatch' of upstream Dassl is not included"),
        ("from dassl.engine.trainer import SimpleNet", "SimpleNet"),
        ("from dassl.data.datasets import OfficeHome", "'OfficeHome'.*not included"),
        ("from dassl.data.datasets.ssl import CIFAR10", "semi-supervised datasets"),
        ("from dassl.data.transforms.autoaugment import SVHNPolicy", "augmentation"),
        ("from dassl.utils.tpt_tools import Summary", "PromptAlign"),
        ("from dassl.engine import TrainerY", "no 'TrainerY' in 'dassl.engine'"),
    ],
)
def test_absent_parts_are_named(statement, said):
    with pytest.raises(ImportError, match=said):
        exec(statement, {})


def test_absence_does_not_disturb_ordinary_questions():
    import dassl.engine

    assert not hasattr(dassl.engine, "FixMatch")
    assert not hasattr(dassl, "nonsense")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("dassl_extra")
    done = start(HOME, code="import runpy; runpy.run_module('dassl')")
    assert "No module named dassl.__main__" in done.stderr


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("config", "get_cfg_default clean_cfg cfg_default"),
        ("engine", "TRAINER_REGISTRY TrainerX TrainerXU TrainerBase SimpleTrainer build_trainer"),
        ("engine.trainer", "TrainerX TrainerXU TrainerBase SimpleTrainer"),
        ("optim", "build_optimizer build_lr_scheduler"),
        ("optim.optimizer", "build_optimizer"),
        ("optim.lr_scheduler", "build_lr_scheduler ConstantWarmupScheduler LinearWarmupScheduler"),
        ("optim.lr_scheduler", "_BaseWarmupScheduler"),
        ("metrics", "compute_accuracy compute_distance_matrix"),
        ("evaluation", "EVALUATOR_REGISTRY build_evaluator EvaluatorBase Classification"),
        ("data", "DataManager DatasetWrapper"),
        ("data.data_manager", "DataManager DatasetWrapper build_data_loader"),
        ("data.datasets", "DATASET_REGISTRY Datum DatasetBase build_dataset"),
        ("data.datasets.base_dataset", "Datum DatasetBase"),
        ("data.samplers", "build_sampler RandomDomainSampler SeqDomainSampler RandomClassSampler"),
        ("data.transforms", "build_transform INTERPOLATION_MODES"),
        ("data.transforms.transforms", "build_transform INTERPOLATION_MODES"),
        ("data.transforms.transforms", "_build_transform_train _build_transform_test"),
        ("utils", "setup_logger set_random_seed collect_env_info load_pretrained_weights load_checkpoint"),
        ("utils", "mkdir_if_missing listdir_nohidden read_json write_json check_isfile tolist_if_not"),
        ("utils", "Registry check_availability read_image download_url count_num_param AverageMeter"),
        ("utils", "MetricMeter Logger save_checkpoint resume_from_checkpoint open_all_layers"),
        ("utils", "open_specified_layers init_network_weights"),
        ("utils", "get_most_similar_str_to_a_from_b"),
        ("utils.tools", "get_most_similar_str_to_a_from_b"),
        ("utils.tools", "mkdir_if_missing set_random_seed collect_env_info read_image check_availability"),
        ("utils.torchtools", "load_checkpoint save_checkpoint resume_from_checkpoint count_num_param"),
        ("utils.logger", "Logger setup_logger"),
        ("utils.meters", "AverageMeter MetricMeter"),
        ("utils.registry", "Registry"),
    ],
)
def test_names_are_where_upstream_has_them(module, names):
    loaded = importlib.import_module(f"dassl.{module}")
    assert [name for name in names.split() if not hasattr(loaded, name)] == []
