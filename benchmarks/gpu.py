"""Prove and measure the GPU path in a few minutes, without a download: weights are random or DemoCLIP's.

    python benchmarks/gpu.py --minutes 8             # make gpu: all parts on the GPU
    python benchmarks/gpu.py --cpu                   # every part small, on the CPU: tries the script
    python benchmarks/gpu.py --parts banks tuning --minutes 3

Needs torch 2.6 or newer, torchvision and the packages of `pip install .`, no network. Parts run in order of worth, each
in a process of its own with its own time limit: one that fails, hangs or is killed leaves the results of the others.
Results: gpu.json, gpu.md and one log for each part, in --output.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "dassl-lite")]

# Parts in order of worth, and their shares of the time.
PARTS = {"equal": 5, "banks": 6, "tuning": 8, "cell": 3, "memory": 2, "operators": 3}
HEADS = ("part", "measured", "value", "unit", "reference", "ratio", "wanted", "met")
GRACE_SECONDS = 20  # beyond its time a part may finish the step that it is in


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together (default 8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--cpu", action="store_true", help="small sizes, on the CPU")
    parser.add_argument("--output", type=Path, default=Path("output/gpu"), help="folder (default output/gpu)")
    parser.add_argument("--write", action="store_true", help="keep the results beside this script, for RESULTS.md")
    parser.add_argument("--fail", choices=PARTS, help="let this part fail, to see that the others go on")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what the process of a part is given
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.part:
        return run_part(args)
    began, results = time.monotonic(), {"machine": describe_machine(), "parts": {}}
    if not args.cpu and not results["machine"].get("gpu"):
        print("error: PyTorch sees no CUDA device here; --cpu tries the script without one", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(args.parts):
        left = 60 * args.minutes - (time.monotonic() - began)
        share = PARTS[name] / sum(PARTS[other] for other in args.parts[i:])
        print(f"== {name} ({left * share:.0f} s of {left:.0f} s left)", flush=True)
        results["parts"][name] = start_part(name, left * share, args)
        results["seconds"] = time.monotonic() - began
        write(results, args.output)
        print(table({name: results["parts"][name]}, "simple"), flush=True)
    if args.write:
        (HERE / "gpu_results.json").write_text(json.dumps(results, indent=1))
    print(f"\n{results['seconds'] / 60:.1f} min; {args.output / 'gpu.json'}, {args.output / 'gpu.md'}")
    for name, part in results["parts"].items():
        for label in part["failures"]:
            print(f"FAILED {name}: {label} (traceback in gpu.json)")
    return 1 if any(part["failures"] for part in results["parts"].values()) else 0


def run_part(args: argparse.Namespace) -> int:
    """One part, in this process."""
    from measurements import Report

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    deadline = time.monotonic() + args.seconds
    report = Report(args.output / f"{args.part}.json", deadline, args.cpu, fail=args.fail == args.part)
    report.write()
    with report.step(args.part):
        importlib.import_module(f"gpu_parts.{args.part}").run(report)
    return 1 if report.failures else 0


def start_part(name: str, seconds: float, args: argparse.Namespace) -> dict:
    """Run a part in a process of its own until its time is over. Returns what it measured, and why it ended."""
    path, log_path = args.output / f"{name}.json", args.output / f"{name}.log"
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--seconds", str(seconds), "--output", str(args.output)]
    command += ["--cpu"] * args.cpu + (["--fail", args.fail] if args.fail else [])
    began, end = time.monotonic(), ""
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            if (status := process.wait(seconds + GRACE_SECONDS)) not in (0, 1):
                end = f"the process ended with status {status}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {seconds + GRACE_SECONDS:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    part = {"measurements": [], "tables": {}, "failures": {}, "skipped": []}
    if path.is_file():
        part = json.loads(path.read_text())
    if end:
        part["failures"][end] = log_path.read_text(errors="replace")[-4000:]
    return part | {"seconds": time.monotonic() - began}


def describe_machine() -> dict:
    """Processor, card and versions; asked of a process of its own, so that this one holds no memory of the card."""
    code = "import sys, json; sys.path[:0] = sys.argv[1:]; import common; print(json.dumps(common.machine()))"
    command = [sys.executable, "-c", code, *sys.path[:3]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": done.stderr[-2000:]}


def write(results: dict, folder: Path) -> None:
    """``gpu.json`` and ``gpu.md``."""
    (folder / "gpu.json").write_text(json.dumps(results, indent=1))
    (folder / "gpu.md").write_text("# GPU results\n\n" + describe(results))


def describe(results: dict) -> str:
    """All parts as Markdown: the table, its notes, then tables of operators and tracebacks."""
    machine = results["machine"]
    lines = [
        f"{machine.get('gpu') or machine.get('processor')}; torch {machine.get('torch')}, "
        f"Python {machine.get('python')}, {machine.get('system')}; {results['seconds'] / 60:.1f} minutes.",
        "",
        *(f"{remark}\n" for remark in results.get("remarks", ())),
        table(results["parts"], "github"),
        "",
    ]
    for name, part in results["parts"].items():
        lines += [f"- {name}, {m['label']}: {m['note']}." for m in part["measurements"] if m["note"]]
        lines += [f"- {name}: skipped {label}." for label in part["skipped"]]
    for name, part in results["parts"].items():
        for title, text in (part["tables"] | {f"FAILED: {k}": v for k, v in part["failures"].items()}).items():
            lines += ["", f"### {name}: {title}", "", "```", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def table(parts: dict, style: str) -> str:
    from tabulate import tabulate

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = [
        [name, m["label"], number(m["value"]), m["unit"], number(m["reference"]), number(m["ratio"]), m["wanted"],
         {True: "yes", False: "NO", None: ""}[m["met"]]]
        for name, part in parts.items() for m in part["measurements"]
    ]  # fmt: skip
    rows += [[name, f"FAILED: {label}"] for name, part in parts.items() for label in part["failures"]]
    return tabulate(rows, HEADS, tablefmt=style, disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
