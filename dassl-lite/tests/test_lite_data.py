import random
import resource
import signal
from collections import Counter

import lite_plugin_dataset
import numpy as np
import pytest
import torch
from dassl.data import DataManager, DatasetWrapper, build_data_loader
from dassl.data.datasets import Datum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import read_image
from PIL import Image


@pytest.fixture
def items(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    paths = []
    for number in range(10):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.roll(pixels, number, 0)).save(paths[-1])
    return [Datum(path, n % 3, n % 2, f"c{n % 3}") for n, path in enumerate(paths)]


@pytest.mark.parametrize(("batch", "train", "batches"), [(4, True, 2), (10, True, 1), (11, True, 1), (4, False, 3)])
def test_incomplete_batches(cfg, items, batch, train, batches):
    loader = build_data_loader(cfg, "SequentialSampler", items, batch, tfm=torch.nn.Identity(), is_train=train)
    assert len(loader) == batches
    assert loader.drop_last == (train and batch <= 10)
    assert (loader.batch_size, len(loader.dataset)) == (batch, 10)


@pytest.mark.parametrize("nothing", [[], None])
def test_empty_loaders_say_which_split(cfg, nothing):
    for error in (AssertionError, ValueError):
        with pytest.raises(error, match=r"the test split has 0 items \(batch size 5\)"):
            build_data_loader(cfg, "SequentialSampler", nothing, 5, is_train=False, split="test")
    with pytest.raises(ValueError, match="a training loader has 0 items"):
        build_data_loader(cfg, "RandomSampler", nothing, 5)


def test_items_of_the_wrapper(cfg, items):
    cfg.INPUT.TRANSFORMS = ("normalize",)
    wrapper = DatasetWrapper(cfg, items, build_transform(cfg, is_train=False))
    item = wrapper[4]
    assert list(item) == ["label", "domain", "impath", "index", "img"]
    assert (item["label"], item["domain"], item["impath"], item["index"]) == (1, 0, items[4].impath, 4)
    assert (item["img"].shape, item["img"].dtype) == ((3, 8, 8), torch.float32)
    assert (wrapper.k_tfm, wrapper.is_train, wrapper.return_img0) == (1, False, False)
    assert (wrapper.cfg, wrapper.data_source) == (cfg, items)
    batch = next(iter(torch.utils.data.DataLoader(wrapper, batch_size=3)))
    assert [batch[key].dtype for key in ("label", "domain", "index", "img")] == [torch.int64] * 3 + [torch.float32]
    assert batch["impath"] == [item.impath for item in items[:3]]


def test_several_views(cfg, items):
    cfg.DATALOADER.K_TRANSFORMS, cfg.DATALOADER.RETURN_IMG0 = 2, True
    flip = build_transform(cfg)
    item = DatasetWrapper(cfg, items, flip, is_train=True)[0]
    assert len(item["img"]) == 2
    assert item["img0"].shape == (3, 8, 8)
    assert 0 <= item["img0"].min() <= item["img0"].max() <= 1
    assert torch.is_tensor(DatasetWrapper(cfg, items, flip)[0]["img"])
    with pytest.raises(ValueError, match="K_TRANSFORMS=2"):
        DatasetWrapper(cfg, items, None, is_train=True)
    several = DatasetWrapper(cfg, items, (flip, flip, flip))[0]
    assert [key for key in several if key.startswith("img")] == ["img", "img2", "img3", "img0"]
    assert DatasetWrapper(cfg, items)[0]["img"].size == (30, 20)
    cfg.INPUT.TRANSFORMS = ("normalize",)
    assert DatasetWrapper(cfg, items, flip)[0]["img0"].min() < 0


def test_manager(cfg, capsys):
    lite_plugin_dataset.paint(cfg.DATASET.ROOT)
    cfg.DATASET.NAME = "LiteSquares"
    cfg.INPUT.TRANSFORMS = ("random_flip",)
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 5
    manager = DataManager(cfg)
    assert (len(manager.train_loader_x), len(manager.val_loader), len(manager.test_loader)) == (2, 1, 1)
    assert manager.train_loader_u is None
    assert (manager.num_classes, manager.num_source_domains) == (3, 0)
    assert manager.lab2cname == dict(enumerate(lite_plugin_dataset.CLASSES))
    assert manager.dataset.classnames == lite_plugin_dataset.CLASSES
    table = capsys.readouterr().out
    assert [row in table for row in ("# classes  3", "# train_x  12", "# val      6", "# test     6")] == [True] * 4
    marker = object()
    assert DataManager(cfg, marker, marker).test_loader.dataset.transform is marker

    class Wrapper(DatasetWrapper):
        pass

    cfg.VERBOSE = False
    capsys.readouterr()
    assert type(DataManager(cfg, dataset_wrapper=Wrapper).val_loader.dataset) is Wrapper
    assert capsys.readouterr().out == ""


def test_few_shot_subset_is_that_of_the_seed(cfg):
    lite_plugin_dataset.paint(cfg.DATASET.ROOT)
    cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS, cfg.VERBOSE, cfg.SEED = "LiteSquares", 1, False, 0
    random.seed(0)
    first = [d.impath for d in DataManager(cfg).dataset.train_x]
    again = [d.impath for d in DataManager(cfg).dataset.train_x]  # from the cache
    assert first == again
    assert len(first) == 3


class Thing:
    def __init__(self, label, domain):
        self.label, self.domain = label, domain


@pytest.fixture
def things():
    return [Thing(label=n % 4, domain=n // 20) for n in range(60)]


def groups(order, size):
    return [order[i : i + size] for i in range(0, len(order), size)]


def test_domain_samplers(things):
    random.seed(0)
    sampler = build_sampler("RandomDomainSampler", data_source=things, batch_size=6, n_domain=2)
    order = list(sampler)
    assert len(sampler) % 6 == len(order) % 6 == 0
    assert len(set(order)) == len(order)
    for batch in groups(order, 6):
        assert sorted(Counter(things[i].domain for i in batch).values()) == [3, 3]
    sampler = build_sampler("SeqDomainSampler", data_source=things, batch_size=9)
    order = list(sampler)
    assert len(sampler) == len(order) == len(set(order)) == 54
    for batch in groups(order, 9):
        assert [things[i].domain for i in batch] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert order != list(sampler)
    for kind in ("RandomDomainSampler", "SeqDomainSampler"):
        with pytest.raises(AssertionError, match="divisible"):
            build_sampler(kind, data_source=things, batch_size=7)
        with pytest.raises(AssertionError, match="takes 21 items per domain, the smallest has 20"):
            build_sampler(kind, data_source=things, batch_size=63)


def domain_draws(things, share, choose):
    """Python's ``random`` draws so many of a domain's unused items, until a domain of a batch has too few."""
    left = {d: [i for i, thing in enumerate(things) if thing.domain == d] for d in (0, 1, 2)}
    order = []
    while True:
        batch = choose()
        for domain in batch:
            order += random.sample(left[domain], share)
            left[domain] = [i for i in left[domain] if i not in order]
        if min(len(left[domain]) for domain in batch) < share:
            return order


def class_draws(things, classes, share):
    """Each class shuffled and cut, too small ones filled up by numpy; classes drawn until too few are left."""
    packs = {}
    for label in dict.fromkeys(thing.label for thing in things):
        pool = [i for i, thing in enumerate(things) if thing.label == label]
        if len(pool) < share:
            pool = list(np.random.choice(pool, size=share, replace=True))
        random.shuffle(pool)
        packs[label] = groups(pool[: len(pool) // share * share], share)
    order = []
    while len(labels := [label for label in packs if packs[label]]) >= classes:
        for label in random.sample(labels, classes):
            order += packs[label].pop(0)
    return order


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samplers_draw_as_upstream(things, seed):
    """From equal states of the generators; making a sampler draws once, for its length."""
    few = [*things[:7], *things[20:33]]  # a class of a batch may be too small
    for kind, options, expected in (
        ("SeqDomainSampler", {"batch_size": 9}, lambda: domain_draws(things, 3, lambda: [0, 1, 2])),
        (
            "RandomDomainSampler",
            {"batch_size": 8, "n_domain": 2},
            lambda: domain_draws(things, 4, lambda: random.sample([0, 1, 2], 2)),
        ),
        ("RandomClassSampler", {"batch_size": 6, "n_ins": 3}, lambda: class_draws(things, 2, 3)),
        ("RandomClassSampler", {"batch_size": 18, "n_ins": 9}, lambda: class_draws(few, 2, 9)),
    ):
        source = few if options.get("n_ins") == 9 else things
        random.seed(seed)
        np.random.seed(seed)
        for_length = expected()
        whole = [expected(), expected()]
        random.seed(seed)
        np.random.seed(seed)
        sampler = build_sampler(kind, data_source=source, **options)
        assert (len(sampler), [list(sampler), list(sampler)]) == (len(for_length), whole), kind


def test_class_sampler(things):
    random.seed(0)
    sampler = build_sampler("RandomClassSampler", data_source=things, batch_size=6, n_ins=3)
    for batch in groups(list(sampler), 6):
        assert sorted(Counter(things[i].label for i in batch).values()) == [3, 3]
    few = build_sampler("RandomClassSampler", data_source=things[:4], batch_size=8, n_ins=2)
    assert sorted(few) == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(AssertionError, match="at least N_INS=5"):
        build_sampler("RandomClassSampler", data_source=things, batch_size=4, n_ins=5)
    with pytest.raises(AssertionError, match="needs 5 classes"):
        build_sampler("RandomClassSampler", data_source=things, batch_size=5, n_ins=1)


def test_plain_samplers(things):
    assert list(build_sampler("SequentialSampler", data_source=things)) == list(range(60))
    assert sorted(build_sampler("RandomSampler", data_source=things)) == list(range(60))
    with pytest.raises(ValueError, match="Unknown sampler type: Random"):
        build_sampler("Random", data_source=things)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_images_become_rgb(tmp_path, mode):
    path = str(tmp_path / "a.jpg")
    Image.new("L", (4, 5), 200).convert(mode).save(path, format="TIFF" if mode == "CMYK" else "PNG")
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (4, 5))


def test_unreadable_images_are_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    (tmp_path / "page.jpg").write_text("<html>")
    for name in ("cut.png", "page.jpg", "gone.png"):
        with pytest.raises(OSError, match=name):
            read_image(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_images_are_scaled(tmp_path, suffix):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"grey{suffix}")
    assert np.array_equal(np.asarray(read_image(tmp_path / f"grey{suffix}")), np.stack([grey] * 3, 2))


def test_images_of_unknown_range_or_size_are_refused(tmp_path, monkeypatch):
    for name, kind in (("whole.tif", np.int32), ("float.tif", np.float32)):
        Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / name)
        with pytest.raises(OSError, match=f"{name}: 32 bits a colour"):
            read_image(tmp_path / name)
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr("dassl.utils.tools.MOST_PIXELS", 1599)
    with pytest.raises(OSError, match="large.png: 40 x 40 pixels; at most"):
        read_image(tmp_path / "large.png")


class Labels:
    """A wrapper that gives labels alone: the batch is small, and torch's own ``collate`` leaves it to the sender."""

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.data_source = data_source

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, index):
        return {"label": self.data_source[index].label, "more": [1.5, (2,)]}


def test_a_batch_that_finds_no_shared_memory_is_an_error_and_no_wait(cfg, items):
    def too_long(*_):
        raise TimeoutError("still waiting for a batch")

    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_data_loader(cfg, "SequentialSampler", items, 10, dataset_wrapper=Labels)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(RuntimeError, match="file </torch_"):
            list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert [batch["label"].tolist() for batch in loader] == [[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]
