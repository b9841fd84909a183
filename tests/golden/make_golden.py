"""Write what must not change when the code is rebuilt: resolved configurations, bank keys, results of small runs.

    python tests/golden/make_golden.py --tree . --output tests/golden/golden.json
    git worktree add ../before REVISION; python tests/golden/make_golden.py --tree ../before --output before.json

It uses the command line of ``train.py`` alone, so it runs on any revision. Configurations and keys are the same
everywhere; results are the same bits on the same processor, with the same torch and one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# What a run adds to `--trainer T --seed 1`: the attacks that its method is evaluated under.
ATTACKED = ["EVAL.ATTACKS", "('pgd2-fkl@8:transfer', 'pgd2-ce@2:adaptive')"]
TUNED = ["EVAL.ATTACKS", "('pgd2-ce@2:static', 'pgd2-ce@2:tuned')", "EVAL.SUBSET", "4"]
RUNS: dict[str, list[str]] = {
    "AdvPT": ATTACKED, "CoOp": ATTACKED, "ZeroshotCLIP": ATTACKED, "LinearProbe": ATTACKED, "CoCoOp": ATTACKED,
    "APT": ATTACKED, "FAP": ATTACKED, "CAPT": ATTACKED, "TradesPT": ATTACKED, "AdvVPT": ATTACKED, "AdvIVLP": ATTACKED,
    "AdvMaPLe": ATTACKED, "AdvTrain": ATTACKED, "FastAT": ATTACKED, "TradesFT": ATTACKED, "TAPTV": TUNED,
    "TAPTVLI": TUNED, "TAPTVLJ": TUNED, "TeCoA": ATTACKED, "FARE": ATTACKED,
    "PMGAFT": ATTACKED, "TGAZSR": ATTACKED,
    "AdvVPTMoE": ATTACKED, "AdvIVLPMoE": ATTACKED, "TAMEV": TUNED, "TAMEVLI": TUNED,
}  # fmt: skip
# Whose run test-time tuning begins with.
START = {
    "TAPTV": "AdvVPT", "TAPTVLI": "AdvIVLP", "TAPTVLJ": "AdvMaPLe", "TAMEV": "AdvVPTMoE", "TAMEVLI": "AdvIVLPMoE",
}  # fmt: skip
SMALL = ["OPTIM.MAX_EPOCH", "1", "BANK.LIMIT", "32", "EVAL.SUBSET", "16", "DATASET.NUM_SHOTS", "4"]
ADDED = (
    "MODEL.CUDA_GRAPHS",
    "INPUT.RESIZE",
    "EVAL.TEST_TIME",
    "EVAL.ADAPTIVE_SUBSET",
    "EVAL.QUERIES",
    "TRAINER.ADVTRAIN.WARMUP_STEPS",
    "TRAINER.FASTAT.WARMUP_STEPS",
    "TRAINER.TRADESFT.WARMUP_STEPS",
    "TRAINER.TECOA.",
    "TRAINER.FARE.",
    "TRAINER.PMGAFT.",
    "TRAINER.TGAZSR.",
    "EVAL.ATTACK_AT",
    "DATASET.PROTOCOL",
    "TRAINER.ZEROSHOTCLIP.TEMPLATES",
    "TRAINER.ADVIVLPMOE.",
    "TRAINER.ADVVPTMOE.",
    "TRAINER.TAME.",
)  # leaves that came later, and nodes
DATASETS = ("digits", "pets", "imagenet")


def machine() -> dict[str, str]:
    """What the bits of a result depend on."""
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"processor": names[0].partition(":")[2].strip() if names else "", "torch": torch.__version__}


def configuration(yaml: str, dataset: str) -> str:
    """Digest of the resolved configuration of a trainer's yaml with a data set's, paths left out."""
    import train

    words = ["--trainer", yaml.split("/")[0], "--seed", "1", "--root", "data", "--output-dir", "out"]
    words += ["--config-file", f"configs/trainers/{yaml}", "--dataset-config-file", f"configs/datasets/{dataset}.yaml"]
    train.register_plugins()
    leaves = flat(train.setup_cfg(train.parse_args(words)))
    return digest({name: value for name, value in leaves.items() if not name.startswith(ADDED)})


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in node.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def run(trainer: str, folder: Path) -> dict[str, Any]:
    """Train and evaluate one method small. Its bank keys, and the id and digest of the result of each record.

    Raises:
        RuntimeError: the run failed; with what it printed.
    """
    import torch

    import train

    torch.set_num_threads(1)
    words = ["--trainer", trainer, "--seed", "1", "--root", str(folder / "data")]
    words += ["--output-dir", str(folder / trainer)]
    pairs = [*SMALL, "BANK.DIR", str(folder / "banks" / trainer), *RUNS[trainer]]
    if start := START.get(trainer):
        if not (folder / start / "records").is_dir():
            run(start, folder)
        words += ["--eval-only", "--model-dir", str(folder / start)]
        pairs += [f"TRAINER.{trainer[:4]}.CLEAN_RUN", str(folder / start)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = train.main([*words, *pairs])
    if status:
        raise RuntimeError(f"{trainer} ended with status {status}:\n{printed.getvalue()}")
    records = {}
    for path in sorted((folder / trainer / "records").glob("*.json")):
        record = json.loads(path.read_text())
        records[path.name] = {"id": record["id"], "result": digest(record["result"])}
    keys = sorted(path.parent.name for path in (folder / "banks" / trainer).rglob("manifest.json"))
    return {"banks": keys, "records": records}


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[2], help="the code to run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS), help="only these trainers")
    args = parser.parse_args()
    tree, output = args.tree.resolve(), args.output.resolve()
    sys.path[:0] = [str(tree), str(tree / "dassl-lite")]
    os.chdir(tree)
    import advpt

    if Path(advpt.__file__).resolve().parents[1] != tree:
        raise SystemExit(f"error: advpt came from {advpt.__file__}, not from {tree}")
    yamls = json.loads(Path(__file__).with_name("golden.json").read_text())["configurations"]
    golden: dict[str, Any] = {"machine": machine(), "configurations": {}, "runs": {}}
    for yaml in yamls:
        golden["configurations"][yaml] = {dataset: configuration(yaml, dataset) for dataset in DATASETS}
    with tempfile.TemporaryDirectory() as folder:
        for trainer in args.runs:
            golden["runs"][trainer] = run(trainer, Path(folder))
            print(trainer, golden["runs"][trainer], flush=True)
    output.write_text(json.dumps(golden, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
