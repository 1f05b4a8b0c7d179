"""Where credentials go, and where they never do."""

import logging
import traceback

import pytest
import structlog

from ingestion.post_office.client import Refused, open_post_office
from tests import odd_post_office as odd
from tests.odd_post_office import FILES, LIMITS, LOGIN, PASSWORD, answer, answering, asking, failure, fault, listing, status


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_no_redirect_is_followed(code: int) -> None:
    """A redirect is an error at once: credentials go nowhere but to the address that was configured."""
    async with answering(listing(FILES)) as other, asking(status(code, Location=other.url)) as (mailbox, asked):
        assert isinstance(await failure(mailbox), Refused)
    assert (len(asked.bodies), other.bodies) == (1, [])


@pytest.mark.parametrize(
    "url",
    [
        "http://dhpo.example/x.asmx",
        "ftp://127.0.0.1/",
        "dhpo",
        "",
        "https://",
        "https://user:secret@dhpo.example/",
        "http://127.0.0.1:x/",
        "https://a\x00b/",
    ],
)
async def test_an_address_that_a_password_must_not_go_to(url: str) -> None:
    """Only https is an address, or http on this very machine, and without credentials in it."""
    async with open_post_office(LIMITS) as office:
        with pytest.raises(Refused) as caught:
            office.mailbox(url, LOGIN, PASSWORD)
    assert "secret" not in str(caught.value)


async def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy in the environment, what may be plain HTTP still goes straight to its server."""
    async with answering(status(502)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with asking(listing(FILES)) as (mailbox, _):
            assert len(await mailbox.new()) == 2
    assert proxy.bodies == []


async def test_what_xml_cannot_say_is_refused() -> None:
    """A password with a control character is refused before anything is sent, and not repeated."""
    async with answering(b"") as asked, open_post_office(LIMITS) as office:
        error = await failure(office.mailbox(asked.url, LOGIN, "secret\x00"))
    assert isinstance(error, Refused)
    assert "secret" not in "".join(traceback.format_exception(error))
    assert asked.bodies == []


async def test_no_cookie_is_kept() -> None:
    """What the server lets one facility remember is not sent by another."""
    async with asking(status(200, listing(FILES), Set_Cookie="session=of-the-first; Path=/")) as (mailbox, asked):
        await mailbox.new()
        await mailbox.new()
    assert len(asked.headers) == 2
    assert all("Cookie" not in headers for headers in asked.headers)


SPILLING: dict[str, bytes | odd.Handler] = {
    "garbage": odd.echo(200),
    "error": odd.echo(500),
    "fault": fault(f"{LOGIN}.{PASSWORD}".replace("<&>", "")),
    "fault's text": fault("Server").replace(b"odd", f"{LOGIN} {PASSWORD}".replace("<&>", "").encode()),
    "message": answer("GetNewTransactions", -2, errorMessage=f"{LOGIN} {PASSWORD}"),
    "login": answer("GetNewTransactions", -1, errorMessage=f"{LOGIN} {PASSWORD}"),
    "code": answer("GetNewTransactions", f"{LOGIN} Pässwörd"),
    "listing": listing(f"<Files {LOGIN} Pässwörd"),
    "half": listing(f"{LOGIN} Pässwörd")[:-20],
    "none": odd.hang_up,
    "status": status(503, LOGIN.encode()),
}


@pytest.mark.parametrize("name", [*SPILLING])
async def test_credentials_are_in_no_error(name: str) -> None:
    """Whatever a server sends back, no error, nor any that it came from, holds the login, the password or the answer."""
    async with asking(SPILLING[name]) as (mailbox, asked):
        error: BaseException | None = await failure(mailbox)
        assert LOGIN.encode() in asked.bodies[0]
        told = [repr(mailbox), *traceback.format_exception(error)]
        while error is not None:
            told += [str(error), repr(error), str(vars(error))]
            error = error.__cause__ or error.__context__
    assert not [text for text in told if LOGIN in text or "ssw" in text]


async def test_credentials_are_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """With logging turned up to the last detail, no line holds the login, the password, or anything of an answer."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as ours:
        for spilling in SPILLING.values():
            async with asking(spilling) as (mailbox, _):
                await failure(mailbox)
    lines = [f"{record.getMessage()} {vars(record)}" for record in caplog.records] + [str(entry) for entry in ours]
    assert any("post_office.asked_again" in line for line in lines)
    assert not [line for line in lines if LOGIN in line or "ssw" in line]
