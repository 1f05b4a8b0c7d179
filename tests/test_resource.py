import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import Invalid
from r4.resource import MAX_BYTES, split, stamp, to_milliseconds

NOON = datetime(2024, 5, 6, 12, 0, 0, 123456, tzinfo=UTC)
HEAD = b'{"resourceType":"Patient","id":"p.1-A","meta":{"versionId":"7","lastUpdated":"2024-05-06T12:00:00.123Z"'


def served(raw: bytes) -> bytes:
    resource = split(raw)
    return stamp(resource.type, resource.id, 7, NOON, resource.tail)


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")).map(
    lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0)
)
scalars = st.one_of(numbers, strings, st.sampled_from(["true", "false", "null"]))
blanks = st.sampled_from(["", " ", "\n\t "])


def _inside(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.tuples(blanks, st.lists(values, max_size=4)).map(lambda made: f"[{made[0]}" + f",{made[0]}".join(made[1]) + "]")
    objects = st.tuples(blanks, st.lists(st.tuples(strings, values), max_size=4)).map(
        lambda made: "{" + f"{made[0]},".join(f"{name}:{made[0]}{value}" for name, value in made[1]) + "}"
    )
    return st.one_of(lists, objects)


values = st.recursive(scalars, _inside, max_leaves=12)
names = st.from_regex(r"_?[a-z][A-Za-z]{0,10}", fullmatch=True).filter(lambda name: name not in ("id", "meta"))


@given(st.dictionaries(names, values, max_size=6), blanks)
def test_members_are_kept_to_the_byte(members: dict[str, str], blank: str) -> None:
    """Whatever stands at a top-level member is served with the very bytes that came, in the order that they came."""
    texts = [f'"{name}":{blank}{value}{blank}' for name, value in members.items()]
    raw = "{" + ",".join(['"id":"p.1-A"', *texts, '"resourceType":"Patient"']) + "}"
    expected = "".join(f',"{name}":{value}' for name, value in members.items())
    assert served(raw.encode()) == HEAD + b"}" + expected.encode() + b"}"


@pytest.mark.parametrize(
    "digits", ["5.60", "1e3", "1E+3", "-0.0", "123456789012345678901234567890", "0.1000000000000000055", "1e999"]
)
def test_digits_are_kept(digits: str) -> None:
    """Numbers are never re-encoded, not even such as no machine number holds."""
    assert f'"a":[{digits}]'.encode() in served(b'{"resourceType":"Patient","id":"p.1-A","a":[%b]}' % digits.encode())


def test_meta_is_ours_and_theirs() -> None:
    """The server decides versionId and lastUpdated; the rest of meta is kept as it came, and first."""
    meta = b'{"versionId":"99","profile":[ "x" ],"lastUpdated":"1999-01-01T00:00:00Z","_source":{"a":1.0}}'
    got = served(b'{"active":true,"meta":%b,"id":"p.1-A","resourceType":"Patient"}' % meta)
    assert got == HEAD + b',"profile":[ "x" ],"_source":{"a":1.0}},"active":true}'


def test_version_of_the_sender_changes_nothing() -> None:
    """The hash is over the content: another versionId, another place of id, and blanks between members make no new version."""
    one = split(b'{"resourceType":"Patient","id":"a","meta":{"versionId":"1"},"active":true}')
    two = split(b' { "active" : true , "id" : "a", "meta": {"versionId":"2"}, "resourceType":"Patient"}\n')
    assert one.sha256 == two.sha256
    assert one.sha256 != split(b'{"resourceType":"Patient","id":"a","active":false}').sha256


def test_stamp_in_another_zone() -> None:
    """The time of a version is written in UTC, cut to milliseconds."""
    moment = datetime(2024, 5, 6, 1, 2, 3, 999999, tzinfo=timezone(timedelta(hours=2)))
    assert b'"lastUpdated":"2024-05-05T23:02:03.999Z"' in stamp("Patient", "a", 1, moment, b"}}")
    assert to_milliseconds(moment).microsecond == 999000


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"SECRET", "not JSON"),
        (b'{"resourceType":"Patient","id":"a"', "not JSON"),
        (b'{"resourceType":"Patient","id":"a"} SECRET', "not JSON"),
        (b'{"resourceType":"Patient","id":"a","SECRET":NaN}', "not JSON"),
        (b'{"resourceType":"Patient","id":"a","x":01}', "not JSON"),
        (b'["SECRET"]', "not a JSON object"),
        (b'"SECRET"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"id":"a"}', "resourceType"),
        (b'{"resourceType":"SECRET/x","id":"a"}', "resourceType"),
        (b'{"resourceType":"patient","id":"a"}', "resourceType"),
        (b'{"resourceType":"Patient\\n","id":"a"}', "resourceType"),
        (b'{"resourceType":["Patient"],"id":"a"}', "resourceType"),
        (b'{"resourceType":"Patient"}', "id is missing"),
        (b'{"resourceType":"Patient","id":""}', "id is not"),
        (b'{"resourceType":"Patient","id":5}', "id is not"),
        (b'{"resourceType":"Patient","id":"SECRET_"}', "id is not"),
        (b'{"resourceType":"Patient","id":"SECRET\\n"}', "id is not"),
        (b'{"resourceType":"Patient","id":"%b"}' % (b"a" * 65), "id is not"),
        (b'{"resourceType":"Patient","id":"a","meta":"SECRET"}', "meta"),
        (b'{"resourceType":"Patient","id":"a","meta":null}', "meta"),
        (b'{"resourceType":"Patient","id":"a","x":"SECRET\\u0000"}', "NUL"),
        (b'{"resourceType":"Patient","id":"a","x":"\\\\\\u0000"}', "NUL"),
        (b'{"resourceType":"Patient","id":"a","x":"SECRET\x00"}', "not JSON"),
        (b'{"resourceType":"Patient","id":"a","x":"\\ud800 SECRET"}', "not JSON"),
        (b'{"resourceType":"Patient","id":"a","x":"\\udc00\\ud800 SECRET"}', "not JSON"),
        (b'{"resourceType":"Patient","id":"a","y":1e999,"x":"\\ud800 SECRET"}', "not"),
        (b'{"resourceType":"Patient","id":"a","x":"\xff SECRET"}', "not UTF-8"),
        (b'{"resourceType":"Patient","id":"a","y":1e999,"x":"\xff SECRET"}', "not UTF-8"),
        (b'{"resourceType":"Patient","id":"a","x":"\xed\xa0\x80 SECRET"}', "not UTF-8"),
        (b'{"resourceType":"Patient","id":"a","x":%b}' % (b"[" * 100_000 + b"]" * 100_000), "deep"),
        (b'{"resourceType":"Patient","id":"a","x":"%b"}' % (b"a" * MAX_BYTES), "larger than 16 MiB"),
    ],
)
def test_refused(raw: bytes, reason: str) -> None:
    """What cannot be kept or served is refused, in words that repeat nothing of it."""
    with pytest.raises(Invalid) as refused:
        split(raw)
    assert reason in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_escaped_backslash_before_u0000_is_no_nul() -> None:
    """The letters u0000 after an escaped backslash are letters."""
    assert split(b'{"resourceType":"Patient","id":"a","x":"\\\\u0000"}').document["x"] == "\\u0000"


def test_id_of_the_caller() -> None:
    """With `as_id`, the resource's own id is of no weight, and neither in its hash."""
    with_id: Any = split(b'{"resourceType":"Patient","id":"its_own","active":true}', as_id="b")
    assert (with_id.id, with_id.sha256) == ("b", split(b'{"resourceType":"Patient","id":"c","active":true}').sha256)
    with pytest.raises(Invalid):
        split(b'{"resourceType":"Patient"}', as_id="no/id")
