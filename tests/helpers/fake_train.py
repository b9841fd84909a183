"""A stand-in for train.py without its libraries: three steps with a checkpoint each, then a record and the mark of
done.

Called as: fake_train.py FOLDER NAME LOG [fail|crash-once|on-cluster]; on a cluster it is slower, and skips what is
done, as train.py does. Each start and end is a line in LOG.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

folder, name, log, mode = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), (sys.argv[4:] or [""])[0]


def note(text):
    with log.open("a") as file:
        file.write(f"{text} {name}\n")


def replace(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


if mode == "on-cluster" and (folder / "done.json").exists():
    sys.exit(0)
note("start")
if mode == "fail":
    print("error: it never works")
    sys.exit(1)
if mode == "crash-once" and not (folder / "crashed").exists():
    replace(folder / "crashed", "")
    sys.exit(1)
step = folder / "step"
done = int(step.read_text()) if step.exists() else 0
while done < 3:
    time.sleep(0.15 if mode == "on-cluster" else 0.05)
    done += 1
    replace(step, str(done))
part = {"accuracy": 50.0, "correct": 1, "n": 2, "interval95": [9.5, 90.5], "outcome": "gA=="}
result = {
    "split": "test",
    "dataset": "D",
    "trainer": "T",
    "seed": 1,
    "backbone": {"name": "B"},
    "clean": part,
    "robust": None,
    "config": {"name": name},
    "protocol": None,
    "attack": None,
    "defenses": [],
    "images": {"n": 2, "digest": "d"},
}
text = json.dumps(result, sort_keys=True, separators=(",", ":"))
key = hashlib.sha256(text.encode()).hexdigest()
record = {"schema": 1, "id": key, "result": result, "observed": {}}
replace(folder / "records" / "test_clean.json", json.dumps(record))
replace(folder / "done.json", json.dumps({"evaluation": {}, "records": {"test_clean.json": key}, "model": ""}))
note("end")
