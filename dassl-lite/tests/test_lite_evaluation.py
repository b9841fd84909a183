import numpy as np
import pytest
import torch
from dassl.evaluation import EvaluatorBase, build_evaluator
from dassl.metrics import compute_accuracy, compute_distance_matrix


def run(cfg, guesses, labels, classes=4, **kwargs):
    evaluator = build_evaluator(cfg, **kwargs)
    evaluator.reset()
    scores = torch.nn.functional.one_hot(torch.tensor(guesses), classes).float()
    half = len(guesses) // 2
    for part in (slice(None, half), slice(half, None)):
        evaluator.process(scores[part], torch.tensor(labels)[part])
    return evaluator.evaluate()


def test_printed_block_and_results(cfg, capsys):
    guesses = [0] * 1500 + [1] * 500
    labels = [0] * 1000 + [1] * 1000
    results = run(cfg, guesses, labels)
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert all(type(value) is float for value in results.values())
    assert results["accuracy"] == 75.0
    assert results["error_rate"] == 25.0
    assert results["macro_f1"] == pytest.approx(100 * (0.8 + 2 / 3) / 2)
    assert capsys.readouterr().out.endswith(
        "=> result\n* total: 2,000\n* correct: 1,500\n* accuracy: 75.0%\n* error: 25.0%\n* macro_f1: 73.3%\n"
    )


def test_macro_f1_and_confusion_are_scikit_learns(cfg, tmp_path):
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    labels = draw.choice([0, 1, 3], 40).tolist()  # label 2 is guessed, but is never true
    guesses = draw.integers(0, 4, 40).tolist()
    cfg.TEST.COMPUTE_CMAT = True
    results = run(cfg, guesses, labels)
    expected = metrics.f1_score(labels, guesses, average="macro", labels=np.unique(labels))
    assert results["macro_f1"] == pytest.approx(100 * expected, abs=1e-9)
    matrix = torch.load(tmp_path / "out" / "cmat.pt")  # a tensor, readable with torch's defaults
    np.testing.assert_allclose(matrix, metrics.confusion_matrix(labels, guesses, normalize="true"))


def test_per_class_lines(cfg, capsys):
    cfg.TEST.PER_CLASS_RESULT = True
    results = run(cfg, [0, 0, 3, 3], [0, 0, 0, 3], lab2cname={0: "cat", 3: "dog"})
    assert results["perclass_accuracy"] == pytest.approx((200 / 3 + 100) / 2)
    assert capsys.readouterr().out.endswith(
        "=> per-class result\n"
        "* class: 0 (cat)\ttotal: 3\tcorrect: 2\tacc: 66.7%\n"
        "* class: 3 (dog)\ttotal: 1\tcorrect: 1\tacc: 100.0%\n"
        "* average: 83.3%\n"
    )
    with pytest.raises(AssertionError, match="lab2cname"):
        build_evaluator(cfg)


def test_nothing_to_evaluate(cfg):
    evaluator = build_evaluator(cfg)
    with pytest.raises(ZeroDivisionError, match="no sample"):
        evaluator.evaluate()
    for call in (EvaluatorBase(cfg).reset, EvaluatorBase(cfg).evaluate):
        with pytest.raises(NotImplementedError):
            call()


def test_top_k_accuracy():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.15, 0.05], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    labels = torch.tensor([1, 1, 2, 0])
    top1, top2, top3 = compute_accuracy(scores, labels, topk=(1, 2, 3))
    assert [top1.tolist(), top2.tolist(), top3.tolist()] == [[25.0], [50.0], [100.0]]
    assert compute_accuracy((scores, None), labels)[0].item() == 25.0


def test_distances():
    left, right = torch.randn(4, 6), torch.randn(3, 6)
    squared = compute_distance_matrix(left, right)
    torch.testing.assert_close(squared, torch.cdist(left, right) ** 2, atol=1e-4, rtol=1e-4)
    cosine = compute_distance_matrix(left, right, "cosine")
    expected = 1 - torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=-1)
    torch.testing.assert_close(cosine, expected)
    with pytest.raises(ValueError, match="'manhattan'"):
        compute_distance_matrix(left, right, "manhattan")
    with pytest.raises(ValueError, match="need"):
        compute_distance_matrix(left, right[:, :2])
