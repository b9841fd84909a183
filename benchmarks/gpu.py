"""Prove and measure the GPU path in a few minutes, without a download: weights are random or DemoCLIP's.

    python benchmarks/gpu.py --minutes 8             # make gpu: all parts on the GPU
    python benchmarks/gpu.py --cpu                   # every part small, on the CPU: tries the script
    python benchmarks/gpu.py --parts banks tuning --minutes 3

Needs torch 2.6 or newer, torchvision and the packages of `pip install .`, no network. Parts run in order of worth, each
in a process of its own with its own time limit: one that fails, hangs or is killed leaves the results of the others.
Results: gpu.json, gpu.md and one log for each part, in --output.
"""

import argparse
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "dassl-lite")]

from common import in_process  # noqa: E402
from measurements import Report, describe, table  # noqa: E402

# Parts in order of worth, and their shares of the time.
PARTS = {"equal": 5, "banks": 6, "tuning": 8, "cell": 3, "memory": 2, "operators": 3}
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
    if args.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if args.part:
        return run_part(args)
    began = time.monotonic()
    # asked of a process of its own, so that this one holds no memory of the card
    machine = json.loads(in_process("import json, common; print(json.dumps(common.machine()))"))
    if not args.cpu and not machine["gpu"]:
        print("error: PyTorch sees no CUDA device here; --cpu tries the script without one", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Report] = {}
    for i, name in enumerate(args.parts):
        left = 60 * args.minutes - (time.monotonic() - began)
        share = PARTS[name] / sum(PARTS[other] for other in args.parts[i:])
        print(f"== {name} ({left * share:.0f} s of {left:.0f} s left)", flush=True)
        parts[name] = start_part(name, left * share, args)
        fields = {part: report.fields() for part, report in parts.items()}
        results = {"machine": machine, "parts": fields, "seconds": time.monotonic() - began}
        (args.output / "gpu.json").write_text(json.dumps(results, indent=1))
        (args.output / "gpu.md").write_text("# GPU results\n\n" + describe_run(results))
        print(table({name: parts[name]}, "simple"), flush=True)
    if args.write:
        (HERE / "gpu_results.json").write_text(json.dumps(results, indent=1))
    print(f"\n{results['seconds'] / 60:.1f} min; {args.output / 'gpu.json'}, {args.output / 'gpu.md'}")
    failures = [f"{name}: {label}" for name, part in parts.items() for label in part.failures]
    for failure in failures:
        print(f"FAILED {failure} (traceback in gpu.json)")
    return 1 if failures else 0


def run_part(args: argparse.Namespace) -> int:
    """One part, in this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    path, deadline = args.output / f"{args.part}.json", time.monotonic() + args.seconds
    report = Report(path, args.cpu, deadline, fail=args.fail == args.part)
    report.write()
    with report.step(args.part):
        importlib.import_module(f"gpu_parts.{args.part}").run(report)
    return 1 if report.failures else 0


def start_part(name: str, seconds: float, args: argparse.Namespace) -> Report:
    """Run a part in a process of its own until its time is over. Returns what it measured, and why it ended."""
    path, log_path = args.output / f"{name}.json", args.output / f"{name}.log"
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--seconds", str(seconds), "--output", str(args.output)]
    command += ["--cpu"] * args.cpu + (["--fail", args.fail] if args.fail else [])
    end = ""
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
    report = Report.from_fields(json.loads(path.read_text())) if path.is_file() else Report(path)
    if end:
        report.failures[end] = log_path.read_text(errors="replace")[-4000:]
    return report


def describe_run(results: Mapping[str, Any]) -> str:
    """The machine, the remarks and all parts as Markdown."""
    machine = results["machine"]
    about = f"{machine['gpu'] or machine['processor']}; torch {machine['torch']}, Python {machine['python']}, "
    about += f"{machine['system']}; {results['seconds'] / 60:.1f} minutes."
    parts = {name: Report.from_fields(fields) for name, fields in results["parts"].items()}
    return "\n\n".join([about, *results.get("remarks", ()), describe(parts)])


if __name__ == "__main__":
    sys.exit(main())
