"""Processes of runs: one of a job at a time, and none that outlives who started it."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from advpt.jobs.process import ProcessSpec, run_to_completion
from tests.helpers.waiting import wait_for


def test_a_process_waits_for_one_of_the_same_job_that_was_left_behind(tmp_path):
    words = (sys.executable, "-S", "-c", "import time; time.sleep(0.4); print('done')")
    call = ProcessSpec("x", words, tmp_path / "log", tmp_path, {})
    threads = [threading.Thread(target=run_to_completion, args=(call,)) for _ in range(2)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun >= 0.8 and (tmp_path / "log").read_text() == "done\ndone\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a process with its parent")
def test_a_process_ends_with_the_worker_that_started_it(tmp_path):
    words = (sys.executable, "-S", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    call = ProcessSpec("x", words, tmp_path / "log", tmp_path, {})
    child = os.fork()
    if child == 0:
        run_to_completion(call)
        os._exit(0)
    wait_for(lambda: (tmp_path / "log").is_file() and (tmp_path / "log").read_text().strip())
    pid = int((tmp_path / "log").read_text())
    os.kill(child, 9)
    os.waitpid(child, 0)

    def ended() -> bool:
        state = Path(f"/proc/{pid}/stat")
        return not state.is_file() or state.read_text().split()[2] == "Z"

    wait_for(ended)
