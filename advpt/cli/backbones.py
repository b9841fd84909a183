"""``python -m advpt backbones``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from advpt.backbones import democlip, find, load
from advpt.backbones.card import Card, fields
from advpt.cli import common
from advpt.errors import AdvPTError, ConfigError
from advpt.jobs.places import missing_name
from advpt.settings import BACKBONES, backbone_file, recipe

DEMO = {"democlip": democlip.NAME, "democlip_s": democlip.SMALL_NAME}  # the others have a file in configs/backbones
HEADS = ("short name", "model", "pixels", "image encoder", "text", "visual prompts, TAPT", "weights")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", nargs="?", default="", help="one model, by its short name or by MODEL.BACKBONE.NAME")


def run(args: argparse.Namespace) -> int:
    """The models of configs/backbones and what each can do, from their configurations alone; of one model its card. The
    list opens no connection; for one model a configuration is fetched where it is not there. Other names than those of
    the list: docs/backbones.md."""
    repository = common.repository()
    if args.name:
        name = backbone_name(args.name, repository)
        card = load.find_card(name, _activation(args.name, repository))
        if card is None:
            raise ConfigError(f"nothing is known of {name!r} by its name; see: python -m advpt backbones")
        print(tabulate([*_rows(card)], tablefmt="plain"))
        return 0
    shorts = [*DEMO, *sorted(path.stem for path in Path(repository, "configs", BACKBONES).glob("*.yaml"))]
    print(tabulate([_line(short, repository) for short in shorts], headers=HEADS, disable_numparse=True))
    print("\nRobust image towers (FARE, TeCoA, ...) stand in one of these with MODEL.IMAGE_WEIGHTS: docs/backbones.md")
    return 0


def backbone_name(short: str, repository: Path) -> str:
    """``MODEL.BACKBONE.NAME`` of a backbone's short name; other names are what they are."""
    file = backbone_file(repository, short)
    return str(recipe(file)["MODEL.BACKBONE.NAME"]) if file is not None else DEMO.get(short, short)


def _line(short: str, repository: Path) -> tuple[str, ...]:
    name = backbone_name(short, repository)
    weights = "not there yet" if missing_name(name) else "there"
    try:
        card = load.find_card(name, _activation(short, repository)) if find.is_known_here(name) else None
    except AdvPTError as error:
        return (short, name, "", str(error).partition(". ")[0][:60], "", "", weights)
    if card is None:
        return (short, name, "", "its configuration is not in the cache", "", "", weights)
    size = f"{card.image.size[0]} {card.image.resize}"
    return (short, name, size, card.image.family, _text(card), "yes" if card.image.prompts else "no", weights)


def _activation(short: str, repository: Path) -> str:
    """``MODEL.ACTIVATION`` of a backbone's file; "" for other names."""
    file = backbone_file(repository, short)
    return str(recipe(file)["MODEL.ACTIVATION"]) if file is not None else ""


def _text(card: Card) -> str:
    return "shared prefix" if card.text.shares_prefix else f"plain, {card.text.context} positions"


def _rows(card: Card) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("name", card.name), ("features", card.embed_dim), ("probabilities", card.head)]
    for name, part in (("image", fields(card.image)), ("text", fields(card.text))):
        rows += [(f"{name}.{key}", value) for key, value in part.items() if value not in (None, "", [])]
    rows = [row for row in rows if row[0] != "text.pad" or card.text.tokenizer]  # of a file that is not read here
    return [*rows, ("text features", _text(card)), ("visual prompts, TAPT", "yes" if card.image.prompts else "no")]
