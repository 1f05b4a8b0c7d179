"""A post office that answers whatever a test wants it to: for the odd answers that the simulator does not give."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from ssl import SSLContext
from typing import Literal

import pytest
from aiohttp import web

from ingestion.post_office.client import Limits, Mailbox, PostOfficeError, open_post_office

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ENVELOPES = {"1.1": "http://schemas.xmlsoap.org/soap/envelope/", "1.2": "http://www.w3.org/2003/05/soap-envelope"}


LIMITS = Limits(backoff_s=0.001, backoff_max_s=0.002, read_s=5, call_s=10, answer_bytes=1_000_000, entries=3)
FILES = '<Files><File FileID="F1" FileName="a.xml"/><File FileID="F2"/></Files>'
LOGIN, PASSWORD = "login-of-the-clinic", "Pässwörd <&> 'quoted'"


@dataclass
class Asked:
    url: str
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@asynccontextmanager
async def answering(*answers: bytes | Handler, tls: SSLContext | None = None) -> AsyncIterator[Asked]:
    """Gives the answers one by one, and the last one for ever after."""
    asked = Asked("")

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.bodies.append(await request.read())
        asked.headers.append(dict(request.headers))
        answer = answers[min(len(asked.bodies), len(answers)) - 1]
        return web.Response(body=answer, content_type="text/xml") if isinstance(answer, bytes) else await answer(request)

    app = web.Application(client_max_size=10**9)
    app.router.add_post("/{path:.*}", serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        scheme = "https" if tls else "http"
        asked.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}/ValidateTransactions.asmx"
        yield asked
    finally:
        await runner.cleanup()


def envelope(inside: str, version: str = "1.1") -> bytes:
    start = f'<?xml version="1.0" encoding="utf-8"?><soap:Envelope xmlns:soap="{ENVELOPES[version]}">'
    return f"{start}<soap:Body>{inside}</soap:Body></soap:Envelope>".encode()


def answer(operation: str, code: int | str, version: str = "1.1", /, **elements: str) -> bytes:
    inside = f"<{operation}Result>{code}</{operation}Result>"
    inside += "".join(f"<{name}>{escape(text)}</{name}>" for name, text in elements.items())
    return envelope(f'<{operation}Response xmlns="http://www.eClaimLink.ae/">{inside}</{operation}Response>', version)


def listing(text: str | None, code: int = 0, version: str = "1.1") -> bytes:
    elements = {} if text is None else {"xmlTransaction": text}
    return answer("GetNewTransactions", code, version, **elements)


def fault(kind: str, version: str = "1.1") -> bytes:
    code = {
        "1.1": f"<faultcode>soap:{kind}</faultcode><faultstring>odd</faultstring>",
        "1.2": f"<soap:Code><soap:Value>soap:{kind}</soap:Value></soap:Code>"
        '<soap:Reason><soap:Text xml:lang="en">odd</soap:Text></soap:Reason>',
    }
    return envelope(f"<soap:Fault>{code[version]}</soap:Fault>", version)


def status(code: int, body: bytes = b"", **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return handle


def gzipped(body: bytes, *, cut: int | None = None) -> Handler:
    return status(200, gzip.compress(body)[:cut], Content_Encoding="gzip")


def echo(code: int) -> Handler:
    """Sends back what it got, credentials and all."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, body=await request.read(), content_type="text/xml")

    return handle


async def hang_up(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.Response()


async def say_nothing(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


def endless(pause_s: float = 0.0) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * (1 if pause_s else 65536))
            await asyncio.sleep(pause_s)

    return handle


async def cut_off(request: web.Request) -> web.StreamResponse:
    """Promises a length, and hangs up before."""
    body = listing("<Files/>")
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[:100])
    return await hang_up(request)


@asynccontextmanager
async def asking(
    *answers: bytes | Handler, limits: Limits = LIMITS, soap: Literal["1.1", "1.2"] = "1.1"
) -> AsyncIterator[tuple[Mailbox, Asked]]:
    async with answering(*answers) as asked, open_post_office(limits, soap=soap) as office:
        yield office.mailbox(asked.url, LOGIN, PASSWORD, "DHA-F-0000001"), asked


async def failure(mailbox: Mailbox) -> PostOfficeError:
    with pytest.raises(PostOfficeError) as caught:
        await mailbox.new()
    return caught.value
