"""What a payload comes to: its XML document, or a refusal that repeats nothing of it."""

import gzip
import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.claims import NotClaims
from ingestion.parsing.payloads import RATIO_MAX, unpack

TEXT = "<Claim.Submission><Header/>…</Claim.Submission>"
XML = TEXT.encode()
SECRET = b"<a>784-1900-7654321-9</a>"
MIB = 1024 * 1024


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content, method)
    return buffer.getvalue()


def encrypted(packed: bytes) -> bytes:
    """With the flag set in the member's both headers."""
    flagged = bytearray(packed)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flagged[packed.index(signature) + offset] |= 1
    return bytes(flagged)


def renamed(packed: bytes, old: bytes, new: bytes) -> bytes:
    """As zipfile itself would not write it."""
    assert len(old) == len(new)
    return packed.replace(old, new)


def of_many_gzips() -> bytes:
    return gzip.compress(b"<a>") + gzip.compress(b"</a>")


def refusal(payload: bytes, **limits: int) -> str:
    with pytest.raises(NotClaims) as caught:
        unpack(payload, **limits)
    return str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        XML,
        b"\xef\xbb\xbf" + XML,
        b" \r\n\t" + XML,
        b"\xef\xbb\xbf\r\n" + XML,
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        ("\r\n" + TEXT).encode("utf-16-be"),
        ('\ufeff<?xml version="1.0" encoding="utf-16"?>\r\n' + TEXT).encode("utf-16-le"),
        b'<?xml version="1.0" encoding="UTF-16"?>' + XML,
        gzip.compress(XML),
        gzip.compress(b"\xef\xbb\xbf" + XML) + bytes(512),
        gzip.compress(TEXT.encode("utf-16")),
        zipped(("claims.xml", XML)),
        zipped(("CLAIMS.XML", XML), method=zipfile.ZIP_STORED),
        zipped(("claims", XML)),
        zipped(("in/", b""), ("in/claims.xml", XML), ("in/readme.txt", b"no")),
    ],
)
def test_every_wrapping_gives_the_one_document(payload: bytes) -> None:
    """Raw, gzip and zip, UTF-8 and UTF-16, with and without mark, give the same bytes."""
    assert unpack(payload) == XML


def test_an_encoding_of_one_byte_a_character_is_left_to_the_parser() -> None:
    """What its declaration says of itself stays true, so the bytes stay as they came."""
    document = b'<?xml version="1.0" encoding="windows-1256"?><a>\xc7</a>'
    assert unpack(document) == document


DEFLATED = zipped(("claims.xml", SECRET * 50))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "it is empty"),
        (b" \n ", "it is empty"),
        (gzip.compress(b""), "it is empty"),
        (b"%PDF-1.7 of a patient", "it is no XML"),
        (TEXT.encode("utf-16") + b"\x00", "it is not the UTF-16 that it seems to be"),
        (b"\xff\xfe\x00\xd8<\x00", "it is not the UTF-16 that it seems to be"),
        (b"\xff\xfe\x00\x00" + TEXT.encode("utf-32-le"), "it is no XML"),
        (gzip.compress(SECRET)[:-4], "the gzip is cut off"),
        (gzip.compress(SECRET)[:20] + b"!" + gzip.compress(SECRET)[21:], "the gzip is damaged"),
        (of_many_gzips(), "more follows the gzip's end"),
        (zipped(), "the zip has no members to choose from"),
        (zipped(("a.xml", XML), ("b.xml", XML)), "the zip has 2 members to choose from"),
        (zipped(("a.txt", XML), ("b.pdf", XML)), "the zip has 2 members to choose from"),
        (zipped(*((f"{n}.txt", b"") for n in range(33))), "the zip has more than 32 members"),
        (zipped(("a.xml", XML), method=zipfile.ZIP_LZMA), "the zip is packed by a method that is not read here"),
        (encrypted(DEFLATED), "the zip is encrypted"),
        (DEFLATED[:-10], "the zip is damaged or cut off"),
        (DEFLATED[:60], "the zip is damaged or cut off"),
        (renamed(DEFLATED, b"claims.xml", b"../../.xml"), "a member's name in the zip leads out of it"),
        (renamed(DEFLATED, b"claims.xml", b"/laims.xml"), "a member's name in the zip leads out of it"),
        (renamed(DEFLATED, b"claims.xml", b"..\\ims.xml"), "a member's name in the zip leads out of it"),
        (renamed(DEFLATED, b"claims.xml", b"C:aims.xml"), "a member's name in the zip leads out of it"),
        (renamed(DEFLATED, b"claims.xml", b"cla\0ms.xml"), "a member's name in the zip leads out of it"),
        (zipped(("a.xml", gzip.compress(XML))), "it is an archive in an archive"),
        (gzip.compress(zipped(("a.xml", XML))), "it is an archive in an archive"),
        (zipped(("a.xml", zipped(("a.xml", XML)))), "it is an archive in an archive"),
    ],
)
def test_what_is_refused_and_why(payload: bytes, reason: str) -> None:
    """Each trick and each damage has its reason, in words of ours alone."""
    assert refusal(payload) == reason


def test_a_member_whose_bytes_were_changed_is_refused() -> None:
    """The zip's checksum is held against what came out."""
    packed = zipped(("a.xml", SECRET), method=zipfile.ZIP_STORED)
    assert refusal(packed.replace(b"7654321", b"7654322")) == "the zip is damaged or cut off"


def test_both_caps_hold() -> None:
    """The packed size is capped before anything is done, the unpacked one while it grows."""
    document = b"<a>" + bytes(range(32, 127)) * 20 + b"</a>"
    packed = gzip.compress(document)
    assert unpack(packed, packed_max=len(packed), unpacked_max=len(document)) == document
    assert "larger than" in refusal(packed, packed_max=len(packed) - 1)
    for wrapping in (document, packed, zipped(("a.xml", document))):
        assert "larger than" in refusal(wrapping, unpacked_max=len(document) - 1)


@pytest.mark.parametrize("wrapping", ["gzip", "zip", "a zip that lies of its size"])
@pytest.mark.parametrize(
    ("grain", "unpacked_max", "reason"),
    [
        (1, 256 * MIB, "it grows more than 250 times when unpacked"),
        (1000, 2 * MIB, "it is larger than 2097152 bytes when unpacked"),
    ],
    ids=["by ratio", "by size"],
)
def test_a_bomb_is_never_in_memory(wrapping: str, grain: int, unpacked_max: int, reason: str) -> None:
    """64 MiB are refused when a few are unpacked, by what they grow to and by how they grow."""
    content = b"<a>" + random.Random(1).randbytes(grain) * (64 * MIB // grain)
    payload = gzip.compress(content) if wrapping == "gzip" else zipped(("a.xml", content))
    if "lies" in wrapping:
        size = struct.pack("<I", len(content))
        assert payload.count(size) == 2
        payload = payload.replace(size, struct.pack("<I", 2**31 - 1))
    del content
    tracemalloc.start()
    try:
        assert refusal(payload, unpacked_max=unpacked_max) == reason
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < RATIO_MAX * len(payload) + 8 * MIB if "grows" in reason else peak < 8 * MIB


MUTATIONS = st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=4)), max_size=6)
WRAPPINGS = [
    zipped(("a.xml", SECRET * 20), ("b/", b"")),
    zipped(("a.xml", SECRET * 5), method=zipfile.ZIP_STORED),
    gzip.compress(SECRET * 20),
    TEXT.encode("utf-16"),
    zlib.compress(SECRET),
]


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(lambda tail: b"PK\x03\x04" + tail)))
def test_any_bytes_give_a_document_or_a_refusal(payload: bytes) -> None:
    """Nothing but NotClaims is raised, whatever comes."""
    with suppress(NotClaims):
        assert unpack(payload).startswith(b"<")


@given(st.sampled_from(WRAPPINGS), MUTATIONS, st.integers(0, 10_000))
def test_damaged_archives_give_a_document_or_a_refusal(payload: bytes, changes: list[tuple[int, bytes]], cut: int) -> None:
    """Bytes changed anywhere in an archive, and its end cut off, raise nothing but NotClaims; and it tells nothing."""
    damaged = bytearray(payload)
    for place, patch in changes:
        at = place % len(payload)
        damaged[at : at + len(patch)] = patch
    try:
        unpack(bytes(damaged[: len(damaged) - cut % 40]), unpacked_max=MIB)
    except NotClaims as refused:
        assert "784" not in str(refused)  # noqa: PT017
