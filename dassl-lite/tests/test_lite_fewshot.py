import pickle
import pickletools
import random

import pytest
from dassl.data.datasets import DatasetBase, Datum

COUNTS = {0: 20, 1: 3, 2: 20}


class Item:
    """Stand-in for a Datum: a label, and its number within the label."""

    def __init__(self, label, number, domain=0):
        self.label, self.number, self.domain, self.classname = label, number, domain, f"class {label}"


@pytest.fixture
def items():
    return [Item(label, number) for label, count in COUNTS.items() for number in range(count)]


def picked(items):
    out = {}
    for item in items:
        out.setdefault(item.label, []).append(item.number)
    return out


def test_check_vector(items):
    random.seed(1)
    out = DatasetBase(items).generate_fewshot_dataset(items, num_shots=4)
    assert picked(out) == {0: [4, 18, 2, 8], 1: [0, 1, 2], 2: [3, 15, 14, 18]}
    assert [item.label for item in out] == [0] * 4 + [1] * 3 + [2] * 4


def test_check_vector_with_repeat(items):
    random.seed(1)
    out = DatasetBase(items).generate_fewshot_dataset(items, num_shots=4, repeat=True)
    assert picked(out) == {0: [4, 18, 2, 8], 1: [0, 2, 1, 1], 2: [6, 3, 15, 0]}


def test_check_vector_with_two_sources(items):
    random.seed(1)
    first, second = DatasetBase(items).generate_fewshot_dataset(items, items, num_shots=1)
    assert picked(first) == {0: [4], 1: [2], 2: [2]}
    assert picked(second) == {0: [8], 1: [0], 2: [15]}


def test_groups_follow_first_appearance(items):
    backwards = items[::-1]
    out = DatasetBase(items).generate_fewshot_dataset(backwards, num_shots=1)
    assert [item.label for item in out] == [2, 1, 0]
    mixed = [Item(0, 0, domain=2), Item(0, 1, domain=1), Item(0, 2, domain=2)]
    groups = DatasetBase(items).split_dataset_by_domain(mixed)
    assert {domain: len(group) for domain, group in groups.items()} == {2: 2, 1: 1}
    assert list(groups) == [2, 1]


def test_without_shots_nothing_is_drawn(items, capsys):
    dataset = DatasetBase(items)
    before = random.getstate()
    assert dataset.generate_fewshot_dataset(items) is items
    assert dataset.generate_fewshot_dataset(items, items, num_shots=0) == (items, items)
    assert random.getstate() == before
    assert capsys.readouterr().out == ""
    dataset.generate_fewshot_dataset(items, num_shots=2)
    assert capsys.readouterr().out == "Creating a 2-shot dataset\n"


def test_dataset_properties():
    items = [Item(3, 0), Item(0, 0), Item(3, 1)]
    dataset = DatasetBase(train_x=items, test=items[:1])
    assert dataset.num_classes == 4
    assert dataset.lab2cname == {0: "class 0", 3: "class 3"}
    assert dataset.classnames == ["class 0", "class 3"]
    assert (dataset.train_x, dataset.train_u, dataset.val, dataset.test) == (items, None, None, items[:1])
    with pytest.raises(TypeError, match="train_x is None"):
        DatasetBase()
    with pytest.raises(ValueError, match="train_x is empty"):
        DatasetBase(train_x=[])


def test_domains_are_checked():
    dataset = DatasetBase([Item(0, 0)])
    dataset.domains = ["art", "photo"]
    dataset.check_input_domains(["art"], ["photo"])
    with pytest.raises(ValueError, match="sketch"):
        dataset.check_input_domains(["art"], ["sketch"])


def test_downloads_are_from_drive_only(tmp_path):
    with pytest.raises(NotImplementedError):
        DatasetBase([Item(0, 0)]).download_data("http://x/y.zip", tmp_path / "y.zip", from_gdrive=False)


def test_datum_fields_and_missing_file(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    datum = Datum(impath=str(path), label=2, domain=1, classname="cat")
    assert (datum.impath, datum.label, datum.domain, datum.classname) == (str(path), 2, 1, "cat")
    with pytest.raises(AttributeError):
        datum.label = 3
    gone = str(tmp_path / "gone.png")
    with (
        pytest.warns(UserWarning, match='No file found at ".*gone.png"'),
        pytest.raises(AssertionError, match="gone.png.*DATASET.ROOT"),
    ):
        Datum(impath=gone)
    with pytest.raises(AssertionError, match="must be a str"):
        Datum(impath=path)


def test_pickles_are_exchangeable_with_upstream(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    data = pickle.dumps(Datum(str(path), 2, 1, "cat"), protocol=4)
    names = [arg for op, arg, _ in pickletools.genops(data) if op.name == "SHORT_BINUNICODE"]
    assert names[:2] == ["dassl.data.datasets.base_dataset", "Datum"]
    assert {"_impath", "_label", "_domain", "_classname"} <= set(names)
    path.unlink()
    again = pickle.loads(data)
    assert vars(again) == {"_impath": str(path), "_label": 2, "_domain": 1, "_classname": "cat"}
