"""The tokenizer in a ``tokenizer.json``, through the package ``tokenizers``: SigLIP's, CLIPA's.

No code of a repository is run, as transformers' ``AutoTokenizer`` could. Which ids stand around a text is read from the
file and its settings; how a text is cleaned stands in the model's configuration.
"""

from __future__ import annotations

import html
import json
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advpt.backbones import extras, hub
from advpt.backbones.card import TextCard
from advpt.backbones.tokenizers import Tokenizer
from advpt.errors import WeightsError, first_words
from advpt.files import file_digest

CLEANINGS = ("whitespace", "canonicalize", "lower")
FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
OF_BERT = {"pad_token": "[PAD]", "cls_token": "[CLS]"}  # whose own settings do not name them
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str, kind: str) -> str:
    """A text as models of :data:`CLEANINGS` were trained to read it: repaired by ftfy, HTML unescaped twice, single
    spaces; ``canonicalize`` takes underscores for spaces, drops ASCII punctuation and lowers, ``lower`` lowers."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(_PUNCTUATION)
    return " ".join((text if kind == "whitespace" else text.lower()).split())


class Pieces(Tokenizer):
    """Texts to the ids of a ``tokenizer.json``.

    Args:
        card: of the text tower. file: the tokenizer whose ids it reads.
    """

    def __init__(self, card: TextCard, file: TokenizerFile) -> None:
        super().__init__(card)
        self.file = file

    def pieces(self, text: str) -> list[int]:
        cleaned = clean(text, self.card.clean)
        return self.file.encode(cleaned) if cleaned else []

    def word(self, token: int) -> str:
        text = str(self.file.tokenizer.id_to_token(token) or "")
        return "" if token in self.specials else re.sub("^(\u2581|##)", "", text)

    @property
    def specials(self) -> frozenset[int]:
        added = self.file.tokenizer.get_added_tokens_decoder()
        return super().specials | {number for number, token in added.items() if token.special}


@dataclass(frozen=True)
class TokenizerFile:
    """A ``tokenizer.json``, and what its settings beside it name.

    Args:
        path: of the file. digest: its SHA-256. tokenizer: of the package ``tokenizers``; cuts and pads nothing.
        about: the settings. padding: the file's own padding.
    """

    path: Path
    digest: str
    tokenizer: Any
    about: dict[str, Any]
    padding: dict[str, Any]

    @classmethod
    def read(cls, path: Path, settings: Path | None) -> TokenizerFile:
        """The tokenizer in a file. ``settings``: ``tokenizer_config.json``, where there is one.

        Raises:
            WeightsError: a file is damaged, or the package is not installed.
        """
        package = extras.need("tokenizers", f"the tokenizer {path}")
        try:
            text = path.read_text(encoding="utf-8")
            tokenizer = package.Tokenizer.from_str(text)
            padding = json.loads(text).get("padding") or {}
        except Exception as error:  # noqa: BLE001 - `tokenizers` raises bare exceptions for what it cannot read
            raise WeightsError(
                f"{path} cannot be read as a tokenizer ({first_words(error)}); fetch it again"
            ) from error
        about = hub.read_json(settings) if settings is not None else {}
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(path, file_digest(path), tokenizer, about, padding)

    def encode(self, text: str) -> list[int]:
        """The ids of a text alone."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def around(self) -> tuple[tuple[int, ...], int]:
        """The ids before a text and the one behind it: of the file itself, unless its settings say otherwise.

        Raises:
            WeightsError: there is not one id behind a text.
        """
        alone, whole = self.encode("a"), self.tokenizer.encode("a").ids
        at = next((i for i in range(len(whole)) if whole[i : i + len(alone)] == alone), 0)
        start, behind = tuple(whole[:at]), whole[at + len(alone) :]
        if isinstance(self.about.get("add_bos_token"), bool):
            start = (self.named("bos_token"),) if self.about["add_bos_token"] else ()
        if isinstance(self.about.get("add_eos_token"), bool):
            behind = [self.named("eos_token")] if self.about["add_eos_token"] else []
        if len(behind) != 1:
            raise WeightsError(
                f"{self.path} puts {len(behind)} tokens behind a text; expected one, the end. It is no tokenizer of a "
                "CLIP that can be run here"
            )
        return start, int(behind[0])

    def pad(self) -> int:
        """The id of the positions behind the end."""
        return int(self.padding["pad_id"]) if "pad_id" in self.padding else self.named("pad_token")

    def named(self, name: str) -> int:
        """The id of a special token of the settings, where it is a text or an object with one.

        Raises:
            WeightsError: the settings do not name it.
        """
        token = self.about.get(name, OF_BERT.get(name))
        token = token.get("content") if isinstance(token, dict) else token
        number = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            raise WeightsError(
                f"the tokenizer {self.path} has no {name}: expected {SETTINGS} beside it to name one of its tokens "
                f"(it has {token!r}). Fetch {SETTINGS} from the same repository"
            )
        return int(number)
