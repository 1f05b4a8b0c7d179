"""Texts as they are compared: without case and accents, cut to what an index takes, or by how they sound.

Import and search share this.
"""

import re
import unicodedata
from functools import lru_cache

from jellyfish import metaphone

_MAX_CHARACTERS = 400
_MAX_UTF8_BYTES = 1000  # two of them fit into one entry of an index, which may have 2704 bytes
_SURELY_FIT = _MAX_UTF8_BYTES // 4

# Letters of Europe's and Africa's names that Unicode does not take apart into a plain one and a mark.
_PLAIN = str.maketrans(
    {"æ": "ae", "ð": "d", "ø": "o", "þ": "th", "đ": "d", "ħ": "h", "ı": "i", "ĸ": "q", "ł": "l", "ŋ": "n", "œ": "oe", "ŧ": "t"}
    | {"ɓ": "b", "ɖ": "d", "ɗ": "d", "ɛ": "e", "ƒ": "f", "ɣ": "g", "ƙ": "k", "ɲ": "n", "ɔ": "o", "ʋ": "v", "ƴ": "y", "ʒ": "z"}
)
_split = re.compile(r"[\s\-]+").split


def normalise(text: str) -> str:
    """Without accents and case, as strings are compared."""
    if text.isascii():
        return text.lower()
    letters = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold().translate(_PLAIN)


def cap(text: str) -> str:
    """As much of a value as is indexed; a search has to cut what it looks for in the same way."""
    if len(text) <= _SURELY_FIT:
        return text
    short = text[:_MAX_CHARACTERS]
    return short if short.isascii() else short.encode()[:_MAX_UTF8_BYTES].decode(errors="ignore")


def words(text: str) -> list[str]:
    """Some may be empty."""
    return _split(text)


def sound(text: str) -> str:
    """How each of its words sounds in English, with a blank between; what has no Latin letter has no sound."""
    if text.isalnum():
        return _sound_of_word(normalise(text))
    return " ".join(filter(None, map(_sound_of_word, words(normalise(text)))))


@lru_cache(maxsize=4096)
def _sound_of_word(word: str) -> str:
    """Of names a few are many people's."""
    return metaphone(word).lower()
