"""``python -m advpt doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from pathlib import Path

import torch

from advpt.backbones import clip, hub
from advpt.data import data_root
from advpt.files import file_digest
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
    sub.add_argument("--root", default="", help="data root to look at")


def run(args: argparse.Namespace) -> int:
    """Versions, devices, which dassl is in use, weights and data roots and which setting decided."""
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
