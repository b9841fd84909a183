"""A trainer file and a dataset file written for upstream, run from training to evaluation."""

import re
import sys
from pathlib import Path

import lite_plugin_dataset
import lite_plugin_trainer
import pytest
import torch
from dassl.engine import TrainerBase, TrainerX, TrainerXU, build_trainer
from dassl.utils import read_image, set_random_seed, setup_logger
from yacs.config import CfgNode

HOOKS = """
    check_cfg build_data_loader build_model register_model train before_train resume_model_if_exist
    before_epoch run_epoch set_model_mode parse_batch_train forward_backward after_epoch test save_model
    after_train load_model update_lr model_inference parse_batch_test
"""


@pytest.fixture
def run_cfg(cfg):
    lite_plugin_dataset.paint(cfg.DATASET.ROOT)
    cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS = "LiteSquares", 2
    cfg.TRAINER.NAME = "LitePrompt"
    cfg.TRAINER.LITEPROMPT = CfgNode({"N_CTX": 4, "PREC": "fp32"})
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR_SCHEDULER = "sgd", 0.05, 4, "cosine"
    cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE = 1, "constant"
    cfg.TRAIN.PRINT_FREQ = 5
    cfg.SEED = 0
    return cfg


def start(cfg, seed=None):
    set_random_seed(cfg.SEED if seed is None else seed)
    return build_trainer(cfg)


def coop_result(folder, keyword="accuracy", gate="Finish training"):
    """CoOp's rules: after a line that is exactly the gate, the last match of the keyword counts."""
    pattern = re.compile(rf"\* {keyword}: ([\.\deE+-]+)%")
    value, is_open = None, False
    for line in (Path(folder) / "log.txt").read_text().splitlines():
        if line.strip() == gate:
            is_open = True
        match = pattern.search(line)
        if match and is_open:
            value = float(match.group(1))
    return value


def test_hooks_run_in_order(run_cfg, monkeypatch):
    trace = []
    kind = lite_plugin_trainer.LitePrompt
    for name in HOOKS.split():
        method = getattr(kind, name)

        def traced(self, *args, _name=name, _method=method, **kwargs):
            trace.append(_name)
            return _method(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, traced)
    run_cfg.OPTIM.MAX_EPOCH = 1
    run_cfg.TEST.FINAL_MODEL = "best_val"
    trainer = start(run_cfg)
    assert trace == ["check_cfg", "build_data_loader", "build_model", "register_model"]
    trace.clear()
    trainer.train()
    evaluation = ["test", "set_model_mode", "parse_batch_test", "model_inference"]
    assert trace == [
        *["train", "before_train", "resume_model_if_exist"],
        *["before_epoch", "run_epoch", "set_model_mode"],
        *["forward_backward", "parse_batch_train", "update_lr"],
        *["after_epoch", *evaluation, "save_model", "save_model"],
        *["after_train", "load_model", *evaluation],
    ]


def test_check_cfg_runs_before_there_is_a_cfg(run_cfg, monkeypatch):
    seen = []
    monkeypatch.setattr(
        lite_plugin_trainer.LitePrompt,
        "check_cfg",
        lambda self, cfg: seen.append((hasattr(self, "cfg"), hasattr(self, "device"), dict(self._models))),
    )
    start(run_cfg)
    assert seen[0] == (False, False, {})


def test_train_save_resume_and_evaluate(run_cfg, capsys):
    out = Path(run_cfg.OUTPUT_DIR)
    setup_logger(run_cfg.OUTPUT_DIR)
    trainer = start(run_cfg)
    untrained = trainer.model.prompt_learner.ctx.detach().clone()
    trainer.train()
    sys.stdout.close()
    assert not torch.equal(trainer.model.prompt_learner.ctx, untrained)
    log = (out / "log.txt").read_text()
    assert capsys.readouterr().out == log

    folder = out / "prompt_learner"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-4"]
    state = torch.load(folder / "model.pth.tar-4", weights_only=True)
    assert set(state) == {"state_dict", "epoch", "optimizer", "scheduler", "val_result", "lite"}
    assert list(state["state_dict"]) == ["ctx", "token_prefix", "token_suffix"]
    assert (state["epoch"], state["val_result"]) == (4, None)

    for line in (
        "Loading trainer: LitePrompt",
        "Loading dataset: LiteSquares",
        "Creating a 2-shot dataset",
        "Loading evaluator: Classification",
        "No checkpoint found, train from scratch",
        "Finish training",
        "Evaluate on the *test* set",
        "=> result",
        "* total: 6",
    ):
        assert line in log.splitlines(), line
    batch_line = (
        r"^epoch \[2/4\] batch \[1/1\] time \d\.\d{3} \(\d\.\d{3}\) data \d\.\d{3} \(\d\.\d{3}\) "
        r"loss \d\.\d{4} \(\d\.\d{4}\) acc \d+\.\d{4} \(\d+\.\d{4}\) lr 4\.2678e-02 eta \d:\d\d:\d\d$"
    )
    assert re.search(batch_line, log, re.M), log  # the rate printed last in an epoch is the next one's
    assert re.search(r"^# train_x\s+6$", log, re.M)

    accuracy = coop_result(out)
    assert accuracy == pytest.approx(trainer.test(), abs=0.06)
    assert coop_result(out, gate="=> result") == accuracy

    # Started again, the finished run goes straight to testing, and logs beside the old log.
    setup_logger(run_cfg.OUTPUT_DIR)
    again = start(run_cfg, seed=5)
    again.train()
    sys.stdout.close()
    assert len(list(out.glob("log.txt-*"))) == 1
    assert torch.equal(again.model.prompt_learner.ctx, trainer.model.prompt_learner.ctx)

    # Evaluation only: the trainer's own loader drops the class-dependent buffers.
    fresh = start(run_cfg, seed=6)
    prefix = fresh.model.prompt_learner.token_prefix.clone()
    fresh.load_model(run_cfg.OUTPUT_DIR, epoch=4)
    assert torch.equal(fresh.model.prompt_learner.ctx, trainer.model.prompt_learner.ctx)
    assert torch.equal(fresh.model.prompt_learner.token_prefix, prefix)
    with pytest.raises(FileNotFoundError):
        fresh.load_model(run_cfg.OUTPUT_DIR, epoch=3)


class Stop(Exception):
    pass


def broken_and_resumed(cfg, stop_before, start_dir=None):
    """Stop a run between two epochs; continue it in a new trainer, from other random states."""
    kind = lite_plugin_trainer.LitePrompt

    class Interrupted(kind):
        def before_epoch(self):
            if self.epoch == stop_before:
                raise Stop

    set_random_seed(cfg.SEED)
    with pytest.raises(Stop):
        Interrupted(cfg).train()
    trainer = start(cfg, seed=99)
    # The frozen part comes from pretrained weights in real life; here from the first run's seed.
    set_random_seed(cfg.SEED)
    frozen = build_trainer(cfg).model.state_dict()
    trainer.model.load_state_dict(frozen)
    with torch.no_grad():
        trainer.model.prompt_learner.ctx.zero_()
    set_random_seed(98)
    trainer.train()
    return trainer


def fingerprint(trainer):
    momentum = [s["momentum_buffer"] for s in trainer.optim.state.values()]
    return [trainer.model.prompt_learner.ctx.detach(), *momentum]


@pytest.fixture
def rates(monkeypatch):
    """Learning rate at the start of every epoch that is run."""
    seen = []
    original = TrainerX.run_epoch

    def run_epoch(self):
        seen.append((self.epoch, self.get_current_lr()))
        original(self)

    monkeypatch.setattr(TrainerX, "run_epoch", run_epoch)
    return seen


@pytest.mark.parametrize(("stop_before", "workers"), [(1, 0), (2, 0), (3, 0), (2, 1)])
def test_resumed_run_is_bit_identical(run_cfg, tmp_path, rates, stop_before, workers):
    run_cfg.DATALOADER.NUM_WORKERS = workers
    run_cfg.TRAIN.CHECKPOINT_FREQ = 1
    run_cfg.INPUT.TRANSFORMS = ("random_translation", "random_flip", "cutout", "gaussian_noise")
    start(run_cfg)  # writes the few-shot cache; without it the first run would draw more than the others
    run_cfg.OUTPUT_DIR = str(tmp_path / "whole")
    whole = start(run_cfg)
    whole.train()
    whole_rates = rates[:]
    rates.clear()
    run_cfg.OUTPUT_DIR = str(tmp_path / "broken")
    resumed = broken_and_resumed(run_cfg, stop_before)
    assert rates == whole_rates
    for left, right in zip(fingerprint(resumed), fingerprint(whole), strict=True):
        assert torch.equal(left, right)
    files = [torch.load(tmp_path / run / "prompt_learner" / "model.pth.tar-4") for run in ("whole", "broken")]
    for name in ("python", "numpy"):
        left, right = (file["lite"]["rng"][name] for file in files)
        assert str(left) == str(right)
        assert torch.equal(left[1], right[1])
    assert torch.equal(files[0]["lite"]["rng"]["torch"], files[1]["lite"]["rng"]["torch"])
    assert files[0]["scheduler"] == files[1]["scheduler"]


def test_best_result_survives_a_resume(run_cfg, tmp_path, monkeypatch):
    """Validation 50, 90, stop, 60, 70: the best model stays the one of the second epoch."""
    scores = {0: 50.0, 1: 90.0, 2: 60.0, 3: 70.0}
    kind = lite_plugin_trainer.LitePrompt
    original = kind.test
    monkeypatch.setattr(
        kind, "test", lambda self, split=None: scores[self.epoch] if split == "val" else original(self, split)
    )
    run_cfg.TEST.FINAL_MODEL, run_cfg.TRAIN.CHECKPOINT_FREQ = "best_val", 1
    broken_and_resumed(run_cfg, 3)
    best = torch.load(Path(run_cfg.OUTPUT_DIR) / "prompt_learner" / "model-best.pth.tar")
    assert (best["epoch"], best["val_result"]) == (2, 90.0)

    # RESUME from another folder: its best model is not here, so the search starts anew.
    run_cfg.RESUME, run_cfg.OUTPUT_DIR = run_cfg.OUTPUT_DIR, str(tmp_path / "other")
    run_cfg.OPTIM.MAX_EPOCH = 5
    scores[4] = 10.0
    trainer = start(run_cfg)
    trainer.train()
    assert trainer.best_result == 10.0


def test_best_val_run_resumes_from_its_best_epoch(run_cfg, monkeypatch):
    """CHECKPOINT_FREQ 0: the file named last is the best model's."""
    run_cfg.TEST.FINAL_MODEL = "best_val"
    kind = lite_plugin_trainer.LitePrompt
    original = kind.test
    monkeypatch.setattr(
        kind,
        "test",
        lambda self, split=None: [50.0, 40.0, 30.0, 60.0][self.epoch] if split == "val" else original(self),
    )
    kind_epochs = []
    before = kind.before_epoch
    monkeypatch.setattr(kind, "before_epoch", lambda self: kind_epochs.append(self.epoch) or before(self))
    broken_and_resumed(run_cfg, 3)
    assert kind_epochs == [1, 2, 3]


def test_resume_from_a_file_of_upstream(run_cfg, capsys):
    """No random states, and the inner scheduler as an object."""
    from torch.optim.lr_scheduler import LRScheduler

    run_cfg.TEST.NO_TEST = True
    trainer = start(run_cfg)
    trainer.train()
    path = Path(run_cfg.OUTPUT_DIR) / "prompt_learner" / "model.pth.tar-4"
    state = torch.load(path)
    del state["lite"]
    state["epoch"], state["scheduler"] = 2, LRScheduler.state_dict(trainer.sched)
    torch.save(state, path)
    again = start(run_cfg)
    again.before_train()
    assert again.start_epoch == 2
    assert "holds no random states" in capsys.readouterr().out


def test_an_empty_folder_is_no_checkpoint_and_a_lost_pointer_is_an_error(run_cfg):
    trainer = start(run_cfg)
    folder = Path(run_cfg.OUTPUT_DIR) / "prompt_learner"
    folder.mkdir(parents=True)
    assert trainer.resume_model_if_exist(run_cfg.OUTPUT_DIR) == 0
    for number in (3, 4):
        (folder / f"model.pth.tar-{number}").touch()
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        trainer.resume_model_if_exist(run_cfg.OUTPUT_DIR)
    assert TrainerBase().resume_model_if_exist(run_cfg.OUTPUT_DIR) == 0


def test_models_of_different_epochs_are_not_resumed(tmp_path):
    trainers = {"a": TrainerBase(), "ab": TrainerBase()}
    for names, trainer in trainers.items():
        for name in names:
            trainer.register_model(name, torch.nn.Linear(1, 1))
    trainers["ab"].save_model(2, tmp_path)
    assert trainers["ab"].resume_model_if_exist(tmp_path) == 3
    trainers["a"].save_model(3, tmp_path)
    with pytest.raises(ValueError, match="different epochs"):
        trainers["ab"].resume_model_if_exist(tmp_path)
    (tmp_path / "b" / "checkpoint").unlink()
    (tmp_path / "b" / "model.pth.tar-3").unlink()
    assert trainers["ab"].resume_model_if_exist(tmp_path) == 0


def test_base_class_bookkeeping():
    class Forgetful(TrainerBase):
        def __init__(self):
            pass

    with pytest.raises(AttributeError, match="super"):
        Forgetful().register_model("a")
    trainer = TrainerBase()
    model = torch.nn.Linear(1, 1)
    trainer.register_model("a", model)
    with pytest.raises(AssertionError, match="already registered"):
        trainer.register_model("a", model)
    assert trainer.get_model_names() == trainer.get_model_names("a") == ["a"]
    with pytest.raises(AssertionError, match="no model named 'b'"):
        trainer.get_model_names(["b"])
    trainer.set_model_mode("test")
    assert not model.training
    trainer.set_model_mode("train", "a")
    assert model.training
    with pytest.raises(KeyError, match="mode 'fit'"):
        trainer.set_model_mode("fit")
    trainer.update_lr()
    trainer.model_backward_and_update(model(torch.ones(1, 1)).sum())  # no optimizer: nothing to step
    assert model.weight.grad is not None
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        trainer.model_backward(torch.tensor(float("nan"), requires_grad=True))
    trainer.write_scalar("a", 1.0)
    trainer.close_writer()
    for name in ("run_epoch", "test"):
        with pytest.raises(NotImplementedError):
            getattr(trainer, name)()


def test_default_load_model(tmp_path, capsys):
    trainer = TrainerBase()
    model = torch.nn.Linear(1, 1)
    trainer.register_model("a", model)
    trainer.load_model("")
    assert "load_model() is skipped" in capsys.readouterr().out
    trainer.save_model(2, tmp_path)
    trainer.save_model(4, tmp_path, val_result=71.26, model_name="model-best.pth.tar")
    saved = model.weight.item()
    with torch.no_grad():
        model.weight.zero_()
    trainer.load_model(tmp_path, epoch=3)
    assert model.weight.item() == saved
    trainer.load_model(tmp_path)
    out = capsys.readouterr().out
    assert "(epoch=3, val_result=none)" in out
    assert "(epoch=5, val_result=71.3)" in out
    with pytest.raises(FileNotFoundError):
        trainer.load_model(tmp_path, epoch=9)


def test_the_default_network_is_not_included(run_cfg):
    class Plain(TrainerX):
        pass

    with pytest.raises(NotImplementedError, match="Plain must override build_model"):
        Plain(run_cfg)


def test_missing_tensorboard_is_one_note(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer = TrainerBase()
    trainer.init_writer(str(tmp_path))
    trainer.write_scalar("a", 1.0, 0)
    trainer.close_writer()
    assert capsys.readouterr().out.count("tensorboard is not installed") == 1


@pytest.mark.parametrize(("count", "expected"), [("train_x", 3), ("train_u", 2), ("smaller_one", 2)])
def test_labelled_and_unlabelled_batches(run_cfg, count, expected):
    class Both(TrainerXU):
        def build_model(self):
            self.model = torch.nn.Linear(1, 3)
            optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            self.register_model("model", self.model, optimizer)
            self.steps = []

        def forward_backward(self, batch_x, batch_u):
            images_x, labels_x, images_u = self.parse_batch_train(batch_x, batch_u)
            self.steps.append((len(images_x), len(labels_x), len(images_u)))

    run_cfg.DATASET.NUM_SHOTS = -1
    run_cfg.TRAIN.COUNT_ITER = count
    trainer = Both(run_cfg)
    trainer.train_loader_u = [{"img": torch.zeros(2, 3, 8, 8)}] * 2
    trainer.epoch = 0
    trainer.run_epoch()
    assert trainer.steps == [(4, 4, 2)] * expected
    run_cfg.TRAIN.COUNT_ITER = "both"
    with pytest.raises(ValueError, match="COUNT_ITER='both'"):
        trainer.run_epoch()
    trainer.train_loader_u = None
    with pytest.raises(ValueError, match="needs unlabelled data"):
        trainer.run_epoch()


def test_test_has_no_gradients_and_falls_back_to_the_test_set(run_cfg, capsys):
    trainer = start(run_cfg)
    grad_modes = []
    trainer.model_inference = lambda x: grad_modes.append(torch.is_grad_enabled()) or trainer.model(x)
    trainer.test(split="val")
    trainer.val_loader = None
    trainer.test(split="val")
    out = capsys.readouterr().out
    assert out.count("Evaluate on the *val* set") == out.count("Evaluate on the *test* set") == 1
    assert grad_modes == [False, False]
    assert not trainer.model.prompt_learner.training


# Private names, used as CoOp-style repositories use them.


def test_a_test_transform_of_its_own(run_cfg):
    """As test-time and distillation code builds it, beside the transforms of the configuration."""
    from dassl.data import DataManager
    from dassl.data.transforms import build_transform
    from dassl.data.transforms.transforms import _build_transform_test, _build_transform_train
    from torchvision.transforms import Normalize

    cfg = run_cfg
    choices = cfg.INPUT.TRANSFORMS
    target_size = f"{cfg.INPUT.SIZE[0]}x{cfg.INPUT.SIZE[1]}"
    normalize = Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD)
    tfm_test = _build_transform_test(cfg, choices, target_size, normalize)
    assert str(tfm_test) == str(build_transform(cfg, is_train=False))
    assert str(_build_transform_train(cfg, choices, target_size, normalize)) == str(build_transform(cfg))
    other = Normalize(mean=[0.0] * 3, std=[2.0] * 3)
    assert _build_transform_test(cfg, choices, target_size, other).transforms[-1] is other
    dm = DataManager(cfg, custom_tfm_train=[tfm_test, build_transform(cfg)])
    batch = next(iter(dm.train_loader_x))
    first = dm.train_loader_x.dataset.data_source[int(batch["index"][0])]
    assert torch.equal(batch["img"][0], tfm_test(read_image(first.impath)))
    assert batch["img2"].shape == batch["img"].shape


def test_a_wrapper_with_an_item_of_its_own(run_cfg):
    """Subclasses copy ``__getitem__`` and call ``_transform_image``, or override that alone."""
    from dassl.data import DataManager, DatasetWrapper

    class Indexed(DatasetWrapper):
        def __getitem__(self, idx):
            item = self.data_source[idx]
            output = {"label": item.label, "impath": item.impath, "index": idx, "name": item.classname}
            img0 = read_image(item.impath)
            if isinstance(self.transform, (list, tuple)):
                for i, tfm in enumerate(self.transform):
                    output["img" if i == 0 else f"img{i + 1}"] = self._transform_image(tfm, img0)
            else:
                output["img"] = self._transform_image(self.transform, img0)
            return output

    class Doubled(DatasetWrapper):
        def _transform_image(self, tfm, img0):
            img = super()._transform_image(tfm, img0)
            return torch.cat([img, img])

    run_cfg.DATALOADER.K_TRANSFORMS = 3
    dm = DataManager(run_cfg, dataset_wrapper=Indexed)
    batch = next(iter(dm.train_loader_x))
    assert [img.shape for img in batch["img"]] == [(4, 3, 8, 8)] * 3
    assert not torch.equal(batch["img"][0], batch["img"][1])
    tested = next(iter(dm.test_loader))
    assert tested["img"].shape[1:] == (3, 8, 8)
    assert tested["name"][0] == dm.dataset.test[0].classname
    assert next(iter(DataManager(run_cfg, dataset_wrapper=Doubled).test_loader))["img"].shape[1:] == (6, 8, 8)
    plain = dm.test_loader.dataset.transform
    both = next(iter(DataManager(run_cfg, None, [plain, plain], Doubled).test_loader))
    assert both["img"].shape[1:] == both["img2"].shape[1:] == (6, 8, 8)


def test_the_nearest_name():
    """As registries of other code tell about misspellings."""
    from dassl.utils import get_most_similar_str_to_a_from_b

    def check(requested, available):
        if requested not in available:
            psb_ans = get_most_similar_str_to_a_from_b(requested, available)
            raise ValueError(f"expected to belong to {available}, but got [{requested}] (do you mean [{psb_ans}]?)")

    with pytest.raises(ValueError, match=r"do you mean \[OxfordPets\]"):
        check("OxfordPet", ["Food101", "OxfordPets", "OxfordFlowers"])
    assert get_most_similar_str_to_a_from_b("ab", ["xb", "ax"]) == "ax"  # the last of equals
    assert get_most_similar_str_to_a_from_b("ab", []) is None


def test_a_warm_up_of_its_own():
    """As repositories add an exponential or a cosine warm-up: ``get_lr`` overridden, ``verbose`` passed on."""
    from dassl.optim.lr_scheduler import _BaseWarmupScheduler

    class QuadraticWarmupScheduler(_BaseWarmupScheduler):
        def __init__(self, optimizer, successor, warmup_epoch, min_lr, last_epoch=-1, verbose=False):
            self.min_lr = min_lr
            super().__init__(optimizer, successor, warmup_epoch, last_epoch, verbose)

        def get_lr(self):
            if self.last_epoch >= self.warmup_epoch:
                return self.successor.get_last_lr()
            part = (self.last_epoch / self.warmup_epoch) ** 2
            return [self.min_lr + (lr - self.min_lr) * part for lr in self.base_lrs]

    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        inner = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return optimizer, QuadraticWarmupScheduler(optimizer, inner, 2, 0.2)

    def rates(optimizer, scheduler, epochs):
        measured = []
        for _ in range(epochs):
            measured.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return measured

    optimizer, scheduler = make()
    assert rates(optimizer, scheduler, 5) == pytest.approx([0.2, 0.4, 1.0, 0.5, 0.25])
    optimizer, scheduler = make()
    rates(optimizer, scheduler, 3)
    other, resumed = make()
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert rates(other, resumed, 2) == pytest.approx([0.5, 0.25])
    with pytest.raises(NotImplementedError):
        _BaseWarmupScheduler(optimizer, scheduler, 1)
