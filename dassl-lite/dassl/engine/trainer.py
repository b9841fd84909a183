"""Training loops."""

import datetime
import itertools
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import AverageMeter, MetricMeter, load_checkpoint, save_checkpoint, tolist_if_not
from dassl.utils.torchtools import BEST, POINTER, random_state, read_latest, restore, set_random_state


def __getattr__(name: str) -> Any:
    if name == "SimpleNet":
        raise ImportError("SimpleNet (a network of upstream Dassl) is not included in dassl-lite")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class TrainerBase:
    """Keeps models with their optimizers and schedulers, saves and restores them, and runs the epochs."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None

    # Models

    def register_model(
        self, name: str = "model", model: nn.Module | None = None, optim: Any = None, sched: Any = None
    ) -> None:
        """Keep a model, its optimizer and schedule; ``name`` is also its folder in the output folder.

        Raises:
            AttributeError: before the base class was initialised.
            AssertionError: if the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise AssertionError(f"a model named {name!r} is already registered; registered: {list(self._models)}")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """The given names after a check, or all; AssertionError for an unknown name."""
        known = list(self._models)
        names = known if names is None else tolist_if_not(names)
        for name in names:
            if name not in known:
                raise AssertionError(f"no model named {name!r} is registered; registered: {known}")
        return names

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Put registered models into "train" or "eval" ("test") mode; KeyError for another mode."""
        if mode not in ("train", "eval", "test"):
            raise KeyError(f"mode {mode!r} is not one of train, eval, test")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # Checkpoints

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: Any = None, model_name: str = ""
    ) -> None:
        """Write one checkpoint per model, ``epoch`` counted from 0.

        The key ``lite`` holds what an exact resume needs besides: random states, best result, loss scaler.
        """
        scaler = getattr(self, "scaler", None)
        extra = {
            "format": 1,
            "rng": random_state(),
            "best_result": float(getattr(self, "best_result", float("-inf"))),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": optim.state_dict() if optim is not None else None,
                "scheduler": sched.state_dict() if sched is not None else None,
                "val_result": float(val_result) if val_result is not None else None,
                "lite": extra,
            }
            save_checkpoint(state, Path(directory) / name, is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the latest checkpoints in a folder, if it has one for every model.

        Returns:
            Epochs done; 0 to train from scratch.

        Raises:
            FileNotFoundError: if checkpoints lie there, but not the file that names the latest.
            ValueError: if the models were saved after different epochs.
        """
        folders = {name: Path(directory) / name for name in self.get_model_names()}
        if not folders or not all(_has_checkpoint(folder) for folder in folders.values()):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        latest = {name: read_latest(folder) for name, folder in folders.items()}
        epochs = {str(path): checkpoint["epoch"] for path, checkpoint in latest.values()}
        if len(set(epochs.values())) > 1:
            raise ValueError(
                f"the models were saved after different epochs: {epochs}. To resume, let the file "
                f"{POINTER!r} of each folder name checkpoints of one and the same epoch"
            )
        for name, (path, checkpoint) in latest.items():
            print(f'Loading checkpoint from "{path}"')
            epoch = restore(checkpoint, self._models[name], self._optims[name], self._scheds[name])
        self._restore_extra(checkpoint.get("lite"))
        return epoch

    def _restore_extra(self, extra: dict[str, Any] | None) -> None:
        if extra is None:
            print("Note: the checkpoint holds no random states, so the resumed run differs from an unbroken one")
            return
        set_random_state(extra["rng"])
        scaler = getattr(self, "scaler", None)
        if scaler is not None and extra["scaler"]:
            scaler.load_state_dict(extra["scaler"])
        # With RESUME the best model may lie in another folder; then the search for the best starts anew.
        output_dir = Path(getattr(self, "output_dir", ""))
        if all((output_dir / name / BEST).is_file() for name in self.get_model_names()):
            self.best_result = extra["best_result"]

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load weights, strictly: the best, or those after ``epoch`` epochs; FileNotFoundError if absent."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        file_name = BEST if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = Path(directory) / name / file_name
            checkpoint = load_checkpoint(path)
            result = checkpoint.get("val_result")
            shown = "none" if result is None else f"{result:.1f}"
            print(f"Load {path} to {name} (epoch={checkpoint['epoch']}, val_result={shown})")
            self._models[name].load_state_dict(checkpoint["state_dict"])

    # Tensorboard

    def init_writer(self, log_dir: str) -> None:
        """Open a tensorboard writer, if tensorboard is installed."""
        if self._writer is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("Note: tensorboard is not installed, so no curves are written")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        """Write one point of a curve; nothing without a writer."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # Epochs

    start_epoch: int
    max_epoch: int
    epoch: int
    batch_idx: int
    num_batches: int

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run the epochs; ``before_train`` may move ``start_epoch``."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Hook: once, before the first epoch."""

    def after_train(self) -> None:
        """Hook: once, after the last epoch."""

    def before_epoch(self) -> None:
        """Hook: before the batches of each epoch."""

    def after_epoch(self) -> None:
        """Hook: after the batches of each epoch."""

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self) -> Any:
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        raise NotImplementedError

    def forward_backward(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        raise NotImplementedError

    def model_inference(self, input: Tensor) -> Any:
        raise NotImplementedError

    # One step

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def detect_anomaly(self, loss: Tensor) -> None:
        """Raise FloatingPointError if a value of the loss is not finite."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError(
                f"Loss is infinite or NaN (epoch {getattr(self, 'epoch', 0) + 1}, "
                f"batch {getattr(self, 'batch_idx', 0) + 1}). With fp16, try fp32 or amp; or lower OPTIM.LR"
            )

    def model_backward(self, loss: Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: Tensor, names: str | list[str] | None = None) -> None:
        """Zero the gradients, check the loss, go backward, step the optimizers."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedulers; a trainer calls this on the last batch of an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()


def _has_checkpoint(folder: Path) -> bool:
    """False for a folder without any, such as a kill before the first save leaves behind."""
    return (folder / POINTER).is_file() or any(folder.glob("model*.pth.tar*"))


class SimpleTrainer(TrainerBase):
    """Data, model and evaluator from a configuration; validation, saving and testing around the epochs."""

    model: Any  # the network, in trainers that keep it under this name

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = float("-inf")

    def check_cfg(self, cfg: CfgNode) -> None:
        """Hook, called first: refuse settings that make no sense for this trainer."""

    def build_data_loader(self) -> None:
        """Make the loaders; override for others."""
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self) -> None:
        """Make and register the model. Upstream's default network is not included: override this."""
        raise NotImplementedError(
            f"{type(self).__name__} must override build_model(): SimpleNet and the backbones of upstream "
            "Dassl are not included in dassl-lite"
        )

    def train(self) -> None:  # type: ignore[override]
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        writer_dir = Path(self.output_dir) / "tensorboard"
        writer_dir.mkdir(parents=True, exist_ok=True)
        self.init_writer(str(writer_dir))
        self.time_start = time.monotonic()

    def after_train(self) -> None:
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        elapsed = datetime.timedelta(seconds=round(time.monotonic() - self.time_start))
        print(f"Elapsed: {elapsed}")
        self.close_writer()

    def after_epoch(self) -> None:
        cfg = self.cfg
        if cfg.TEST.FINAL_MODEL == "best_val" and not cfg.TEST.NO_TEST:
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        done = self.epoch + 1
        frequency = cfg.TRAIN.CHECKPOINT_FREQ
        if done == self.max_epoch or (frequency > 0 and done % frequency == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on "val" (if there is one) or on "test"; returns the accuracy in percent.

        Runs without gradients: an attack in ``model_inference`` has to switch them on for itself.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = self.cfg.TEST.SPLIT if split is None else split
        if split == "val" and self.val_loader is not None:
            loader = self.val_loader
        else:
            split, loader = "test", self.test_loader
        print(f"Evaluate on the *{split}* set")
        for batch in tqdm(loader):
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: Tensor) -> Any:
        return self.model(input)

    def parse_batch_test(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Learning rate of the first parameter group of the first (named) model."""
        name = self.get_model_names(names)[0]
        return self._optims[name].param_groups[0]["lr"]

    def _run_batches(self, batches: Iterable[tuple[Any, ...]], count: int) -> None:
        """``forward_backward`` of each of ``count`` batches, its line, its points in tensorboard."""
        self.set_model_mode("train")
        self.num_batches = count
        frequency = self.cfg.TRAIN.PRINT_FREQ
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        end = time.monotonic()
        for batch_idx, batch in enumerate(batches):
            self.batch_idx = batch_idx
            data_time.update(time.monotonic() - end)
            summary = self.forward_backward(*batch)
            batch_time.update(time.monotonic() - end)
            losses.update(summary)
            if (batch_idx + 1) % frequency == 0 or count < frequency:
                print(self._progress_line(losses, batch_time, data_time))
            step = self.epoch * count + batch_idx
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, step)
            self.write_scalar("train/lr", self.get_current_lr(), step)
            end = time.monotonic()

    def _progress_line(self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> str:
        done, total = self.batch_idx + 1, self.num_batches
        batches_left = total - done + (self.max_epoch - self.epoch - 1) * total
        parts = [
            f"epoch [{self.epoch + 1}/{self.max_epoch}]",
            f"batch [{done}/{total}]",
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f})",
            f"data {data_time.val:.3f} ({data_time.avg:.3f})",
            str(losses),
            f"lr {self.get_current_lr():.4e}",
            f"eta {datetime.timedelta(seconds=int(batch_time.avg * batches_left))}",
        ]
        return " ".join(part for part in parts if part)


class TrainerX(SimpleTrainer):
    """Trains on labelled data."""

    def run_epoch(self) -> None:
        self._run_batches(((batch,) for batch in self.train_loader_x), len(self.train_loader_x))

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """(images, labels, domains); CoOp-style trainers override it to (images, labels)."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled data side by side."""

    def run_epoch(self) -> None:
        loader_x, loader_u = self.train_loader_x, self.train_loader_u
        if loader_u is None:
            raise ValueError(f"{type(self).__name__} needs unlabelled data, and the dataset has no train_u")
        len_x, len_u = len(loader_x), len(loader_u)
        lengths = {"train_x": len_x, "train_u": len_u, "smaller_one": min(len_x, len_u)}
        count = self.cfg.TRAIN.COUNT_ITER
        if count not in lengths:
            raise ValueError(f"TRAIN.COUNT_ITER={count!r} is not one of {list(lengths)}")
        pairs = zip(_repeated(loader_x, iter(loader_x)), _repeated(loader_u, iter(loader_u)))
        self._run_batches(itertools.islice(pairs, lengths[count]), lengths[count])

    def parse_batch_train(self, batch_x: dict[str, Any], batch_u: dict[str, Any]) -> Any:  # type: ignore[override]
        """(labelled images, their labels, unlabelled images)."""
        device = self.device
        return batch_x["img"].to(device), batch_x["label"].to(device), batch_u["img"].to(device)


def _repeated(loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, then those of the loader again and again."""
    while True:
        yield from batches
        batches = iter(loader)
