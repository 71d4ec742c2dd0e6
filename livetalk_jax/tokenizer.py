"""Prompts to token ids: the published text cleaning, then a tokenizer of transformers, padded to one length."""

import html
from collections.abc import Callable
from pathlib import Path

import ftfy
import numpy as np

Tokenize = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def clean(text: str) -> str:
    """Mend broken encodings, resolve HTML entities (twice: web captions are often escaped twice), one space between words."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def load_tokenizer(name: str, text_len: int) -> Tokenize:
    """A function from B prompts to (ids, mask), int32 [B, text_len] each; mask is 1 on tokens and 0 on padding.

    Args:
        name: "bytes" for one token a byte (ByT5's numbering, no files); else a folder, or a name on the Hugging Face hub, which is
            looked up on this machine first. Released weights need "google/umt5-xxl".
        text_len: tokens of a row; longer prompts are cut.

    Raises:
        OSError: the tokenizer's files are not there.
    """
    import transformers  # takes seconds

    tokenizer = transformers.ByT5Tokenizer() if name == "bytes" else _load_files(name, transformers.AutoTokenizer)

    def tokenize(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = tokenizer(
            [clean(text) for text in texts], padding="max_length", truncation=True, max_length=text_len, return_tensors="np"
        )
        return rows["input_ids"].astype(np.int32), rows["attention_mask"].astype(np.int32)

    return tokenize


def _load_files(name: str, auto_tokenizer):
    reasons = []
    for local in (True,) if Path(name).is_dir() else (True, False):
        try:
            return auto_tokenizer.from_pretrained(name, local_files_only=local)
        except (OSError, ValueError) as error:
            reasons.append(str(error).strip().splitlines()[0])
    raise OSError(
        f"no tokenizer found at {name!r}: it needs tokenizer.json and tokenizer_config.json (or spiece.model), "
        f"which a published Wan2.1 or SoulX-FlashTalk checkpoint keeps in its folder google/umt5-xxl ({reasons[-1]})"
    )
