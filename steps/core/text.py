"""Text for people to read, whatever characters it holds."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def visible(text: str) -> str:
    """A token with its unseen characters made visible.

    Line breaks and tabs become arrows, other control characters their pictures, and characters
    that reorder or hide text their number; spaces only where the token is nothing else.
    """
    if text and not text.strip(" \u00a0"):
        return "␣" * len(text)
    return "".join(_visible_character(character) for character in text)


def shown(path: Path) -> str:
    r"""A path as text: bytes that are not UTF-8 as ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def plural(count: int, what: str) -> str:
    """What is counted, in the plural unless there is one."""
    return what if count == 1 else f"{what}s"


def _visible_character(character: str) -> str:
    if character in _ARROWS:
        return _ARROWS[character]
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    return f"⟨U+{code:04X}⟩" if hidden and character != _EMOJI_JOINER else character


_ARROWS = {"\n": "↵", "\r": "␍", "\t": "⇥"}
_EMOJI_JOINER = "\u200d"
