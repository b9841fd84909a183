"""What the benchmarks share: alternating runs, the machine's ceiling, what the machine is."""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def alternate(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    warm: bool = True,
    of: Callable[[list[float]], float] = statistics.median,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of every way: the median of ``repeats`` runs, in turn in this process.

    Args:
        ways: what to run, by name.
        repeats: how many times.
        warm: one unmeasured round before.
        of: what to take in place of the median.
        clock: in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + warm):
        for name, work in ways.items():
            synchronize()
            started = clock()
            work()
            synchronize()
            if turn >= warm:
                seconds[name].append(clock() - started)
    return {name: of(values) for name, values in seconds.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def workers() -> int:
    """Processes that read images; none on a CPU, which is busy."""
    return min(8, os.cpu_count() or 1) if torch.cuda.is_available() else 0


def matrix_rate(rows: int = 2048, width: int = 768, dtype: torch.dtype = torch.float32) -> float:
    """Measured FLOP/s of one large matrix product as the towers have them: ``[rows, width] x [width, 4 width]``."""
    a = torch.randn(rows, width, device=device(), dtype=dtype)
    b = torch.randn(width, 4 * width, device=device(), dtype=dtype)
    best = alternate({"product": lambda: a @ b}, 10, of=min)["product"]
    return 2 * rows * width * 4 * width / best


def peak_memory() -> float:
    """MiB: of the GPU, or the largest resident size that this process has had."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # the system's other figure is inherited from the process that started this one
    if status.is_file() and (line := next((x for x in status.read_text().splitlines() if "VmHWM" in x), "")):
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(code: str, *arguments: str) -> str:
    """What a fresh Python process prints: for peaks of memory, which never fall within a process."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "dassl-lite"), str(ROOT / "benchmarks")])
    env = os.environ | {"PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed:\n{done.stderr}")
    return done.stdout


def machine() -> dict[str, object]:
    """Processor, cores, threads, device and versions."""
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "matrix_gflops": round(matrix_rate() / 1e9, 1),
    }
