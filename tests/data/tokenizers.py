"""A tokenizer of a few words, for tests."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ("[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat")


def small(padding: str = "[PAD]", special: bool = True) -> Tokenizer:
    """'the cat' is [CLS] the cat [SEP]; without a word for padding there is none."""
    words = [*WORDS, *([padding] if padding else [])]
    made = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    if special:
        made.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return made


def save(folder: Path, made: Tokenizer | None = None, name: str = "tokenizer.json") -> Path:
    """As a file in a folder, which is given back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text((made or small()).to_str(), encoding="utf-8")
    return folder
