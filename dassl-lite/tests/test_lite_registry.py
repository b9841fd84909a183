import pytest
from dassl.data.datasets import DATASET_REGISTRY
from dassl.data.datasets.build import build_dataset
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.evaluation import EVALUATOR_REGISTRY, build_evaluator
from dassl.utils import Registry, check_availability


def test_decorator_call_order_and_duplicates():
    registry = Registry("THING")

    @registry.register()
    class Second:
        pass

    class First:
        pass

    assert registry.register(First) is None
    assert registry.registered_names() == ["Second", "First"]
    assert registry.get("Second") is Second
    with pytest.raises(KeyError, match="'First' was already registered in the 'THING'"):
        registry.register(First)
    with pytest.raises(KeyError, match="already registered"):
        registry.register()(First)
    registry.register(First, force=True)
    with pytest.raises(KeyError, match="'Third' does not exist in the 'THING'"):
        registry.get("Third")


def test_unknown_names_are_answered_with_the_list_and_the_nearest():
    with pytest.raises(ValueError, match=r"belong to \['CoOp', 'TAPT'\], but got \[Coop\].*mean \[CoOp\]"):
        check_availability("Coop", ["CoOp", "TAPT"])
    with pytest.raises(ValueError, match=r"do you mean \[ac\]"):
        check_availability("ad", ["ab", "ac"])
    with pytest.raises(ValueError, match=r"do you mean \[None\]"):
        check_availability("Coop", [])
    assert check_availability("CoOp", ["CoOp"]) is None


@pytest.mark.parametrize(
    ("build", "node", "key"),
    [(build_trainer, "TRAINER", "NAME"), (build_dataset, "DATASET", "NAME"), (build_evaluator, "TEST", "EVALUATOR")],
)
def test_builders_refuse_unknown_names(cfg, build, node, key):
    cfg[node][key] = "Nowhere"
    with pytest.raises(ValueError, match="expected to belong to"):
        build(cfg)


def test_names_of_the_registries():
    assert [r._name for r in (DATASET_REGISTRY, TRAINER_REGISTRY, EVALUATOR_REGISTRY)] == [
        "DATASET",
        "TRAINER",
        "EVALUATOR",
    ]
    assert "Classification" in EVALUATOR_REGISTRY.registered_names()
