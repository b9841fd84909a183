"""The budget table: every hot path beside what people run today, alternating in one process.

    python benchmarks/bench.py                      # all (make bench), some ten minutes on two cores
    python benchmarks/bench.py tuning_step bank --quick
    python benchmarks/bench.py --write              # also benchmarks/RESULTS.md, its plots and results.json

A GPU is used where there is one.
"""

import argparse
import datetime
import importlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import scaling  # noqa: E402
from common import machine  # noqa: E402
from gpu import describe_run  # noqa: E402
from measurements import Report, describe  # noqa: E402

PARTS = ("tuning_step", "bank", "epoch", "evaluation", "tapt", "multi_view")


def describe_results(results: Mapping[str, Any]) -> str:
    """RESULTS.md."""
    about = results["machine"]
    device = about["gpu"] or f"{about['processor']}, {about['cores']} cores, {about['threads']} threads"
    parts = {name: Report.from_fields(fields) for name, fields in results["parts"].items()}
    lines = [
        "# Benchmark results",
        "",
        f"{results['date']}, {device}; torch {about['torch']}, Python {about['python']}, {about['system']}; one large "
        f"float32 product runs at {about['matrix_gflops']:g} GFLOP/s. `make bench` took "
        f"{results['seconds'] / 60:.1f} minutes. Weights are random: speed does not depend on them. Each pair runs "
        "alternating in one process, so compare ratios, not seconds. *Of the floor*: seconds over those that the "
        "products which must be computed take at the rate of that one large product; below 1 where oneDNN multiplies, "
        "which is faster than PyTorch's own product on AMD's processors.",
        "",
        describe(parts),
    ]
    if "scaling" in results:
        lines.append(scaling.describe(results["scaling"]))
    if (measured := HERE / "gpu_results.json").is_file():
        lines += ["## On a GPU", "", describe_run(json.loads(measured.read_text()))]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join((*PARTS, 'scaling'))} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller and noisier")
    parser.add_argument("--json", type=Path, default=Path("output/bench.json"))
    parser.add_argument("--write", action="store_true", help="RESULTS.md and plots beside this script")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    chosen = args.parts or [*PARTS, "scaling"]
    if unknown := set(chosen) - {*PARTS, "scaling"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    parts: dict[str, Report] = {}
    results: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine()}
    for name in chosen:
        if name == "scaling":
            folder = HERE if args.write else args.json.parent
            results["scaling"] = scaling.run(args.quick)
            print("plots: " + ", ".join(str(path) for path in scaling.draw(results["scaling"], folder)))
        else:
            report = parts[name] = Report(args.json.with_name(f"bench_{name}.json"), args.quick)
            with report.step(name):
                importlib.import_module(name).run(report)
            print(f"\n{describe({name: report})}", flush=True)
        results |= {"seconds": time.monotonic() - began, "parts": {part: each.fields() for part, each in parts.items()}}
        args.json.write_text(json.dumps(results, indent=1))  # what is measured is kept, whatever comes after
    if args.write:
        (HERE / "RESULTS.md").write_text(describe_results(results))
        (HERE / "results.json").write_text(json.dumps(results, indent=1))
    wrong = [f"{name} failed" for name, part in parts.items() if part.failures]
    wrong += [f"{each.label}: NOT met" for part in parts.values() for each in part.measurements if each.met is False]
    print(f"\n{results['seconds'] / 60:.1f} min", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
