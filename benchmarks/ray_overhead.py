"""What ``--engine ray`` costs against ``local``: the same bank with the same cores and threads, in turn, in one run.

    python benchmarks/ray_overhead.py                   # one worker, 6 shards of 10 s and more, 3 rounds
    python benchmarks/ray_overhead.py --workers 2       # against two local processes that share the bank

The cluster is started before, and is not counted; starting the workers and sending them the networks is. Locally the
work is done by as many processes as there are workers, each with one thread: they take each other's shards.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def build(root: Path, engine: str, n: int, steps: int) -> float:
    """Seconds of a bank of ``n`` images, whose files are made beforehand, in one thread."""
    import torch
    from bank import photographs

    from advpt.attacks import parse
    from advpt.backbones.clip import backbone_of
    from advpt.backbones.democlip import FILES, NAME, load
    from advpt.bank.cache import BankCache
    from advpt.bank.on_ray import filler
    from advpt.cluster import Engine

    torch.set_num_threads(1)
    backbone = backbone_of(NAME, load(FILES[NAME]))
    banks = BankCache(root, backbone, lambda: backbone, fill=filler(Engine(engine, cpus=1)))
    images = photographs(root.parent / "images", n, size=32)
    started = time.perf_counter()
    banks.get(images, parse(f"pgd{steps}-fkl@8"))
    return time.perf_counter() - started


def build_locally(root: Path, workers: int, n: int, steps: int) -> float:
    """Seconds of the slowest of several processes that build one bank together."""
    words = [sys.executable, __file__, "--child", str(root), str(n), str(steps)]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    return max(float(child.communicate()[0]) for child in children)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("**/*")) if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shards", type=int, default=6, help="of 256 images")
    parser.add_argument("--steps", type=int, default=10, help="of the attack: how long a shard takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.child:
        root, n, steps = args.child
        print(build(Path(root), "local", int(n), int(steps)))
        return
    import ray
    from bank import photographs

    ray.init(num_cpus=args.workers, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    n, top = 256 * args.shards, Path(tempfile.mkdtemp(prefix="ray_overhead"))
    photographs(top / "images", n)
    took: dict[str, list[float]] = {"local": [], "ray": []}
    for turn in range(args.rounds):
        for engine in ("local", "ray") if turn % 2 == 0 else ("ray", "local"):
            root = top / engine
            shutil.rmtree(root, ignore_errors=True)
            if engine == "local":
                one = build_locally(root, args.workers, n, args.steps)
            else:
                one = build(root, engine, n, args.steps)
            took[engine].append(one)
            print(f"{engine:6} {one:7.1f} s, {one * args.workers / args.shards:5.1f} s a shard", flush=True)
        same = files(top / "local") == files(top / "ray")
        print(f"       ray / local {took['ray'][-1] / took['local'][-1]:.3f}, the same bytes: {same}", flush=True)
    shutil.rmtree(top)
    local, ray_seconds = statistics.median(took["local"]), statistics.median(took["ray"])
    print(f"median: local {local:.1f} s, ray {ray_seconds:.1f} s, {ray_seconds / local - 1:+.1%}")


if __name__ == "__main__":
    main()
