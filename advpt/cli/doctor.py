"""``python -m advpt doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
from pathlib import Path

import torch

from advpt.backbones import clip, hub
from advpt.cli import common
from advpt.data import data_root
from advpt.errors import ConfigError
from advpt.files import file_digest
from advpt.jobs import check as checks
from advpt.jobs.backends import LocalBackend, slots_here
from advpt.jobs.display import display_on
from advpt.jobs.executor import Executor
from advpt.jobs.places import Places, is_complete
from advpt.version import __version__

EXTRAS = {
    "open_clip": ("openclip", "models of open_clip and of the Hugging Face hub"),
    "tokenizers": ("siglip", "SigLIP's and CLIPA's texts"),
    "diffusers": ("diffpure", "DiffPure purification"),
    "ray": ("ray", "banks and sweeps over many machines"),
    "tensorboard": ("", "training curves"),
    "pytest": ("dev", "the test suite"),
}


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.usage = "%(prog)s [--root DIR] [--check SET MODEL [options]]"
    sub.add_argument("--root", default="", help="data root to look at")
    sub.add_argument(
        "--check",
        nargs=2,
        metavar=("SET", "MODEL"),
        help="evaluate zero-shot CLIP on a few test images beside the published numbers: pets vit_b16; without data "
        "and weights: digits democlip",
    )
    of_check = sub.add_argument_group("with --check")
    of_check.add_argument("--images", type=int, metavar="N", help="test images (default: 200; 0: all)")
    of_check.add_argument("--weights", default="", metavar="FILE", help="instead of OpenAI's by name")
    of_check.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a setting")
    of_check.add_argument("--dry-run", action="store_true", help="say how long it takes and run nothing")
    of_check.add_argument("--output", type=Path, default=Path("output", "check"), metavar="DIR")
    of_check.add_argument("--banks", type=Path, default=Path("banks"), metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Versions, devices, weights and data, and which setting decided. With --check also whether this machine computes
    what was published: returns 1 where something differs or is missing. It may be stopped and started again."""
    return check(args) if args.check else look(args)


def check(args: argparse.Namespace) -> int:
    """Zero-shot CLIP on a few test images, beside the numbers and files that are published."""
    dataset, backbone = args.check
    asked = checks.check_of(dataset, backbone, args.images, [(key, value) for key, value in args.set])
    common.register_plugins()
    files = {backbone: args.weights} if args.weights else {}
    root, folders = common.root(args.root), (args.output.absolute(), args.banks.absolute())
    places = Places(common.repository(), folders[0], root, folders[1], files)
    print(f"check     {asked.title}")
    if absent := checks.lacks(asked, places):
        for line in absent:
            print(f"missing   {line}")
        return 1
    plan = checks.plan_of(asked, places)
    (job,) = plan.jobs
    if not is_complete(job, places):
        print(f"time      {checks.estimate(asked, job, places)}", flush=True)
        if args.dry_run:
            return 0
        backend, display = LocalBackend(*slots_here(1)), display_on(sys.stderr)
        summary = Executor(plan, places, backend=backend, retries=0, display=display).run()
        if not summary.ok:
            common.print_summary(plan, places, summary)
            return 1
    made, notes = checks.result_of(asked, plan, places)
    for note in notes:
        print(note)
    if made is None:
        print(f"no record of the run is whole; delete {places.folder(job)} and start the same command again")
        return 1
    print(f"\n{made.text()}\nrecord    {places.folder(job)}")
    return 0 if made.all_same else 1


def look(args: argparse.Namespace) -> int:
    """Versions, devices, which dassl is in use, weights and data roots and which setting decided."""
    _refuse_options_of_checks(args)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(
        f"advpt {__version__}   python {platform.python_version()}   torch {torch.__version__}   {os.cpu_count()} cores"
    )
    print(f"devices     {', '.join(devices) or 'CPU only'}")
    if importlib.util.find_spec("dassl") is None:
        print("dassl       missing: run `make setup`, or pip install ./dassl-lite")
    else:
        import dassl

        print(f"dassl       {getattr(dassl, '__version__', 'unknown version')} at {Path(str(dassl.__file__)).parent}")
    folder, origin = data_root(args.root)
    root = Path(folder)
    print(f"data root   {root.absolute()} (from {origin}){'' if root.is_dir() else ': not there yet'}")
    if root.is_dir():
        print(f"            {', '.join(sorted(p.name for p in root.iterdir() if p.is_dir())) or 'empty'}")
    origin = "$ADVPT_CLIP_CACHE" if os.environ.get("ADVPT_CLIP_CACHE") else "OpenAI's default"
    print(f"weights     {clip.cache_folder()} (from {origin}); DemoCLIP ships with the project")
    for name in clip.OFFICIAL:
        file = clip.cache_folder() / clip.official_file(name)[0].rsplit("/", 1)[-1]
        if file.is_file():
            same = file_digest(file) == clip.official_file(name)[1]
            print(f"            {name}: {'ok' if same else 'DAMAGED, its SHA-256 differs: delete it'}")
    origin = next((f"${name}" for name in ("HF_HUB_CACHE", "HF_HOME") if os.environ.get(name)), "the hub's default")
    there = sorted(path.name.removeprefix("models--") for path in hub.cache_root().glob("models--*"))
    print(f"hub cache   {hub.cache_root()} (from {origin}){'' if there else ': no models yet'}")
    if there:
        print(f"            {', '.join(name.replace('--', '/', 1) for name in there)}")
    for module, (extra, gives) in EXTRAS.items():
        command = f'pip install "advpt[{extra}]"' if extra else f"pip install {module}"
        installed = "yes" if importlib.util.find_spec(module) is not None else f"no ({command})"
        print(f"extra       {module}: {installed}, {gives}")
    return 0


def _refuse_options_of_checks(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that do nothing without --check."""
    given = {
        "--images": args.images is not None,
        "--weights": args.weights,
        "--set": args.set,
        "--dry-run": args.dry_run,
    }
    if names := [name for name, value in given.items() if value]:
        raise ConfigError(f"{', '.join(names)}: of a check alone; add --check SET MODEL, for instance pets vit_b16")
