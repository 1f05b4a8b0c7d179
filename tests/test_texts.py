import unicodedata

import pytest

from r4.texts import cap, normalise, sound


@pytest.mark.parametrize(
    ("text", "alike"),
    [("Smith", "smyth"), ("Łucas", "LUKAS"), ("Catherine Knight", "kathryn \tnight"), ("Jean-Luc", "Jean Luk")],
)
def test_sound(text: str, alike: str) -> None:
    """Names that sound alike in English have one sound, whatever their case, accents and blanks."""
    assert sound(text) == sound(alike) != ""


def test_no_sound() -> None:
    """What has no Latin letter has no sound."""
    assert (sound(""), sound("李 123"), sound("- -")) == ("", "", "")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Ångström", "angstrom"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("İzmir", "izmir"),
        ("ﬁx", "fix"),
        ("李", "李"),
        ("Łukasz", "lukasz"),
        ("Øystein Đorđević", "oystein dordevic"),
        ("Ħal Ðþ Ŋ", "hal dth n"),
        ("Irmak ırmak", "irmak irmak"),
        ("Ǽsop Œdipe", "aesop oedipe"),
        ("Ɓala Ƙano Ŧ", "bala kano t"),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    """Case and accents make no difference, nor does a stroke through a letter, and to normalise twice is to normalise once."""
    assert normalise(text) == normalise(normalise(text)) == normal


def test_normalise_is_done_at_once() -> None:
    """No letter of Unicode needs to be normalised twice."""
    letters = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) != "Cs"]
    assert [letter for letter in letters if normalise(normalise(letter)) != normalise(letter)] == []


def test_cap() -> None:
    """A text is cut at 400 characters and 1000 bytes, and never within a letter."""
    assert cap("x" * 401) == cap("x" * 400) == "x" * 400
    assert (cap("é" * 250), cap("𝔘" * 251)) == ("é" * 250, "𝔘" * 250)
