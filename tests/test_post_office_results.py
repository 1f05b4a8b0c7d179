"""What answers mean, and how long to wait before asking again."""

from datetime import UTC, datetime

import pytest

from ingestion.post_office.client import Limits, LoginRefused, PostOfficeError, Refused, Transient
from ingestion.post_office.results import RESULTS, check_result, of_fault, of_status, pause_s
from ingestion.post_office.transport import check_plain

NOW = datetime(2026, 4, 11, 12, tzinfo=UTC)


DTD = '<!DOCTYPE a [<!ENTITY b "c">]><a/>'


@pytest.mark.parametrize(
    "content",
    [
        DTD.encode(),
        f"<?xml version='1.0'?>\n<!-- x -->{DTD}".encode(),
        DTD.encode("utf-16"),
        DTD.encode("utf-16-le"),
        DTD.encode("utf-32-be"),
        f'\ufeff <?xml version="1.0" encoding="UTF-7"?>{DTD}'.encode().replace(b"<!", b"+ADwAIQ-"),
        f'<?xml version="1.0" encoding="cp037"?>{DTD}'.encode("cp037"),
        b"",
        b"text",
    ],
)
def test_no_dtd_reaches_the_parser(content: bytes) -> None:
    """A DTD is refused before anything is parsed, and so is what could hide one from a look at the bytes."""
    with pytest.raises(Transient):
        check_plain(content)


@pytest.mark.parametrize("start", ["", "\ufeff", "\r\n", "<?xml version='1.0' encoding='UTF-8'?>", '<?xml version="1.0"?>'])
def test_what_the_parser_may_have(start: str) -> None:
    """XML in UTF-8 is let through, with or without a declaration or a byte order mark."""
    check_plain(f"{start}<a>é</a>".encode())


def test_the_table_of_results() -> None:
    """What is not negative goes on, known or not; every other code raises its own kind."""
    for code in (0, 1, 2, 3, 4, 17):
        check_result(code)
    for code, (kind, _) in RESULTS.items():
        if kind is not None:
            with pytest.raises(kind):
                check_result(code)
    assert {code for code, (kind, _) in RESULTS.items() if kind is Transient} == {-4}
    assert {code for code, (kind, _) in RESULTS.items() if kind is LoginRefused} == {-1}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), ("Sat, 11 Apr 2026 12:00:30 GMT", 30.0), ("Sat, 11 Apr 2026 11:00:00 GMT", 0.0), ("soon", None), (None, None)],
)
def test_retry_after(given: str | None, seconds: float | None) -> None:
    """A number of seconds or a date is understood, and nothing else."""
    problem = of_status(503, given, NOW)
    assert isinstance(problem, Transient)
    assert problem.retry_after_s == seconds


def test_pauses() -> None:
    """They are random below a bound that doubles up to its limit, and never under what the server asked for."""
    limits = Limits(backoff_s=1, backoff_max_s=3)
    for attempt, bound in ((1, 1.0), (2, 2.0), (3, 3.0), (50, 3.0)):
        pauses = [pause_s(attempt, None, limits) for _ in range(300)]
        assert 0 <= min(pauses) < bound * 0.2
        assert bound * 0.8 < max(pauses) <= bound
    assert 20 <= pause_s(1, 20.0, limits) <= 21


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("soap:Client", Refused),
        ("Sender", Refused),
        ("a:Client.Authentication", Refused),
        ("x:Server", Transient),
        (None, Transient),
    ],
)
def test_fault_codes(code: str | None, kind: type[PostOfficeError]) -> None:
    """Only a fault of the caller is final, whatever prefix and subcode it has."""
    assert type(of_fault(code)) is kind
