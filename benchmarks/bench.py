"""The budget table: every hot path beside what people run today, alternating in one process.

    python benchmarks/bench.py                      # all (make bench), some ten minutes on two cores
    python benchmarks/bench.py tuning_step bank --quick
    python benchmarks/bench.py --write              # also benchmarks/RESULTS.md, its plots and results.json

A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import logging
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import gpu  # noqa: E402
from common import Row, machine  # noqa: E402
from tabulate import tabulate  # noqa: E402

PARTS = ("tuning_step", "bank", "epoch", "evaluation", "tapt")
HEADS = ("work", "against", "ours", "reference", "ratio", "wanted", "met", "of the floor", "peak MiB")


def cells(row: Row) -> list[str]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    of_floor = f"{row.ours / row.floor:.2f}x" if row.floor else ""
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return [row.work, row.against, number(row.ours), number(row.reference), ratio, row.wanted, met, of_floor,
            f"{row.memory:.0f}" if row.memory else ""]  # fmt: skip


def table(rows: list[Row], style: str) -> str:
    return tabulate([cells(row) for row in rows], HEADS, tablefmt=style, disable_numparse=True)


def results(found: dict, rows: list[Row]) -> str:
    """RESULTS.md."""
    about = found["machine"]
    device = about["gpu"] or f"{about['processor']}, {about['cores']} cores, {about['threads']} threads"
    lines = [
        "# Benchmark results",
        "",
        f"{found['date']}, {device}; torch {about['torch']}, Python {about['python']}, {about['system']}; one large "
        f"float32 product runs at {about['matrix_gflops']:g} GFLOP/s. `make bench` took {found['seconds'] / 60:.1f} "
        "minutes. Weights are random: speed does not depend on them. Seconds unless said otherwise; each pair runs "
        "alternating in one process, so compare ratios, not seconds. *Of the floor*: seconds over those that the "
        "products which must be computed take at the rate of that one large product; below 1 where oneDNN multiplies, "
        "which is faster than PyTorch's own product on AMD's processors.",
        "",
        table(rows, "github"),
        "",
        *(f"- **{row.work}** against {row.against}: {row.how}." for row in rows),
        "",
    ]
    if scaling := found.get("scaling"):
        heads = ("K", "M", "seconds", "of the floor")
        body = [[r["classes"], r["vectors"], f"{r['seconds']:.3f}", f"{r['of_floor']:.2f}x"] for r in scaling["tuning"]]
        lines += ["## Scaling", "", "![tuning step](scaling_tuning.png) ![bank](scaling_bank.png)", ""]
        lines += ["Tuning step, ViT-B/16's text tower, batch 32:", "", tabulate(body, heads, tablefmt="github"), ""]
        body = [[r["chunk"], f"{r['images_per_second']:.2f}"] for r in scaling["bank"]]
        lines += ["Bank, ViT-B/32, forward + input gradient:", ""]
        lines += [tabulate(body, ("chunk", "images/s"), tablefmt="github"), ""]
    if (measured := HERE / "gpu_results.json").is_file():
        lines += ["## On a GPU", "", gpu.describe(json.loads(measured.read_text()))]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join((*PARTS, 'scaling'))} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller and noisier")
    parser.add_argument("--json", type=Path, default=Path("output/bench.json"))
    parser.add_argument("--write", action="store_true", help="RESULTS.md and plots beside this script")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if unknown := set(args.parts) - {*PARTS, "scaling"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    started, rows = time.monotonic(), []
    found: dict = {"date": datetime.date.today().isoformat(), "machine": machine()}
    for name in args.parts or PARTS:
        if name == "scaling":
            continue
        began = time.monotonic()
        new = importlib.import_module(name).run(args.quick)
        rows += new
        print(f"\n{name} ({time.monotonic() - began:.0f} s)\n{table(new, 'simple')}", flush=True)
        for row in new:
            print(f"  {row.work}: {row.how}")
        found["rows"] = [row.fields() for row in rows]  # what is measured is kept, whatever comes after
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))
    if not args.parts or "scaling" in args.parts:
        scaling = importlib.import_module("scaling")
        found["scaling"] = scaling.run(args.quick)
        folder = HERE if args.write else args.json.parent
        folder.mkdir(parents=True, exist_ok=True)
        print("plots: " + ", ".join(str(path) for path in scaling.draw(found["scaling"], folder)))
    found |= {"seconds": time.monotonic() - started, "rows": [row.fields() for row in rows]}
    args.json.write_text(json.dumps(found, indent=1))
    if args.write:
        (HERE / "RESULTS.md").write_text(results(found, rows))
        (HERE / "results.json").write_text(json.dumps(found, indent=1))
    missed = [row.work for row in rows if row.met is False]
    print(f"\n{len(rows)} comparisons, {found['seconds'] / 60:.1f} min" + (f"; NOT met: {missed}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
