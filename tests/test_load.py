import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hdrh.histogram import HdrHistogram

from simulator import load as load_module
from simulator.load import Load, LoadError, Result, render, run, run_in_process
from simulator.load_alarm import alarm
from simulator.load_connection import Answer, BadAnswerError, parse_head
from simulator.load_driver import Tally

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Sluice-Path: channel\r\n\r\n{}"
GET = render("GET", "/patients/1", {})

Writer = asyncio.StreamWriter
Behaviour = Callable[[bytes, Writer], object]
"""Answers one request, given its head; what it returns is awaited where it can be."""


class Server:
    """Answers each request as it is told to, and notes what it saw."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.seen: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.writers: set[Writer] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(head)
                answered = self.behave(head, writer)
                if asyncio.iscoroutine(answered):
                    await answered
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


@asynccontextmanager
async def serving(behave: Behaviour, port: int = 0) -> AsyncIterator[Server]:
    server = Server(behave)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def load(server: Server, **changes: object) -> Load:
    base = Load("127.0.0.1", server.port, connections=4, seconds=0.4, warmup_s=0.0, timeout_s=2.0, seed=7)
    return replace(base, **changes)  # type: ignore[arg-type]  # the field's own type


def answer(data: bytes) -> Behaviour:
    return lambda _, writer: writer.write(data)


def stalling(period_s: float, stall_s: float) -> Behaviour:
    """At the start of every period no answer leaves until the stall is over."""
    began = time.monotonic()

    async def behave(_: bytes, writer: Writer) -> None:
        into = (time.monotonic() - began) % period_s
        if into < stall_s:
            await asyncio.sleep(stall_s - into)
        writer.write(OK)

    return behave


def test_render() -> None:
    """A rendered request is a whole HTTP/1.1 request with its Host and the length of its body."""
    assert render("GET", "/a", {"Accept": "x"}) == b"GET /a HTTP/1.1\r\nHost: localhost\r\nAccept: x\r\n\r\n"
    posted = render("POST", "/a", {"host": "h"}, b"abc")
    assert posted == b"POST /a HTTP/1.1\r\nhost: h\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize("arguments", [("HEAD", "/", {}), ("GET", "/a b", {}), ("GET", "/", {"A": "b\r\nC: d"})])
def test_render_refuses(arguments: tuple[str, str, dict[str, str]]) -> None:
    """What would be misread on the wire is not rendered."""
    with pytest.raises(ValueError, match=r"HEAD|no spaces"):
        render(*arguments)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("HTTP/1.1 200 OK|Content-Length: 5|X-Sluice-Path: Direct", Answer(200, 5, True, b"direct")),
        ("HTTP/1.1 404 No|content-length:0|CONNECTION: Close", Answer(404, 0, False, b"")),
        ("HTTP/1.1 304 Not Modified|Content-Length: 9", Answer(304, 0, True, b"")),
        ("HTTP/1.0 200 OK|Content-Length: 1", Answer(200, 1, False, b"")),
    ],
)
def test_parse_head(head: str, expected: Answer) -> None:
    """Status, length, keep-alive and path are read whatever the case of the names."""
    assert parse_head(head.replace("|", "\r\n").encode() + b"\r\n") == expected


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", "chunked"),
        ("HTTP/1.1 200 OK\r\nServer: x\r\n", "unframed"),
        ("HTTP/1.1 103 Early Hints\r\n", "interim"),
        ("SSH-2.0-x\r\n", "malformed"),
    ],
)
async def test_unreadable_answers_are_errors(head: str, kind: str) -> None:
    """An answer whose end cannot be known is an error of its kind, and no request."""
    with pytest.raises(BadAnswerError, match=kind):
        parse_head(head.encode())
    async with serving(answer(head.encode() + b"\r\n0\r\n\r\n")) as server:
        result = await run(load(server, seconds=0.1), [GET])
    assert set(result.error_kinds) == {kind}
    assert result.requests == 0


@pytest.mark.parametrize("rate", [None, 400.0])
async def test_counts_add_up(rate: float | None) -> None:
    """Every request that the server saw is counted once: as an answer, by status and by path."""
    async with serving(answer(OK)) as server:
        result = await run(load(server, rate=rate, poisson=False), [GET])
    assert result.requests == len(server.seen) == sum(result.statuses.values()) > 100
    assert result.statuses == {200: result.requests}
    assert result.paths == {"channel": result.requests}
    assert (result.errors, result.dropped, server.connections) == (0, 0, 4)
    assert result.per_second == pytest.approx(result.requests / result.seconds, rel=0.05)
    assert HdrHistogram.decode(result.histogram).get_total_count() == result.requests


async def test_warm_up_is_not_counted() -> None:
    """What is due during the warm-up is sent and not counted."""
    async with serving(answer(OK)) as server:
        result = await run(load(server, rate=500.0, poisson=False, warmup_s=0.3, seconds=0.2), [GET])
    assert len(server.seen) == pytest.approx(250, abs=3)
    assert result.requests == pytest.approx(100, abs=3)


async def test_errors_of_the_warm_up_are_not_counted() -> None:
    """What fails before the window is no error of the window."""
    ready_at = time.monotonic() + 0.2

    def behave(_: bytes, writer: Writer) -> None:
        if time.monotonic() < ready_at:
            writer.close()
        else:
            writer.write(OK)

    async with serving(behave) as server:
        result = await run(load(server, warmup_s=0.3, seconds=0.1), [GET])
    assert server.connections > 4
    assert (result.errors, set(result.statuses)) == (0, {200})


async def test_wrong_statuses_are_counted() -> None:
    """A refusal is an answer with its status, and no error."""
    busy = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
    turns = iter(range(1_000_000))
    async with serving(lambda _, writer: writer.write(busy if next(turns) % 4 == 0 else OK)) as server:
        result = await run(load(server), [GET])
    assert result.statuses[429] == pytest.approx(result.requests / 4, abs=1)
    assert result.statuses[200] + result.statuses[429] == result.requests
    assert result.errors == 0


async def test_answers_in_pieces() -> None:
    """An answer that comes in many packets is one answer, timed to its last byte."""

    async def behave(_: bytes, writer: Writer) -> None:
        whole = OK.replace(b"Length: 2", b"Length: 9").replace(b"{}", b'{"a": []}')
        for piece in (whole[:9], whole[9:30], whole[30:-7], whole[-7:-3], whole[-3:]):
            writer.write(piece)
            await asyncio.sleep(0.005)

    async with serving(behave) as server:
        result = await run(load(server), [GET])
    assert result.statuses == {200: len(server.seen)}
    assert result.errors == 0
    assert result.p50_ms >= 19


async def test_server_that_closes_politely() -> None:
    """Connection: close costs a new connection and no error."""
    closing = OK.replace(b"X-Sluice-Path: channel", b"Connection: close")

    def behave(_: bytes, writer: Writer) -> None:
        writer.write(closing)
        writer.close()

    async with serving(behave) as server:
        result = await run(load(server), [GET])
    assert result.requests == len(server.seen) > 20
    assert server.connections >= result.requests
    assert result.errors == 0


@pytest.mark.parametrize("rate", [None, 400.0])
async def test_server_that_hangs_up(rate: float | None) -> None:
    """A request whose connection is cut is an error, and the load goes on over a new connection."""
    turns = iter(range(1_000_000))

    def behave(_: bytes, writer: Writer) -> None:
        if next(turns) % 10 == 9:
            writer.close()
        else:
            writer.write(OK)

    async with serving(behave) as server:
        result = await run(load(server, rate=rate), [GET])
    assert result.error_kinds == {"closed": len(server.seen) // 10}
    assert result.requests + result.errors == len(server.seen) > 50


@pytest.mark.parametrize("rate", [None, 400.0])
async def test_server_that_comes_back(rate: float | None) -> None:
    """While a server is away its absence is counted, and when it is back every connection is."""
    async with serving(answer(OK)) as first:
        running = asyncio.create_task(run(load(first, rate=rate, poisson=False, seconds=1.0), [GET]))
        await asyncio.sleep(0.3)
        for writer in first.writers:
            writer.close()
    await asyncio.sleep(0.2)
    async with serving(answer(OK), first.port) as second:
        result = await running
    assert result.error_kinds["connect"] >= 4
    assert second.connections == 4
    assert len(second.seen) > 50
    cut = result.error_kinds.get("closed", 0)
    if rate:
        assert result.requests + cut == pytest.approx(400, abs=1)
    else:
        assert result.requests + cut == pytest.approx(len(first.seen) + len(second.seen), abs=4)


async def test_silence_is_an_error() -> None:
    """A request that is never answered counts as a timeout, whenever in the window it was sent."""
    async with serving(lambda *_: None) as server:
        result = await run(load(server, seconds=0.5, timeout_s=0.2), [GET])
    assert result.requests == 0
    assert result.error_kinds == {"timeout": len(server.seen)}
    assert len(server.seen) >= 4 * 2


async def test_no_server() -> None:
    """A server that was never there is told at once."""
    async with serving(answer(OK)) as server:
        pass
    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await run(load(server), [GET])


async def test_same_seed_same_requests() -> None:
    """The seed decides which requests are sent, and a function may make them."""
    requests = [render("GET", f"/patients/{number}", {}) for number in range(50)]
    sent = []
    for given in (requests, requests, lambda random: requests[int(random.random() * 50)]):
        async with serving(answer(OK)) as server:
            await run(load(server, connections=1, rate=200.0, poisson=False, seconds=0.2), given)
            sent.append(server.seen)
    assert sent[0] == sent[1] == sent[2]
    assert len(set(sent[0])) > 20


@pytest.mark.parametrize("poisson", [True, False])
async def test_the_rate_is_kept(poisson: bool) -> None:
    """Arrivals come at the rate asked for, at even distances only when they are not Poisson."""
    came: list[float] = []

    def behave(_: bytes, writer: Writer) -> None:
        came.append(time.monotonic())
        writer.write(OK)

    async with serving(behave) as server:
        result = await run(load(server, connections=32, rate=500.0, poisson=poisson, seconds=1.0), [GET])
    assert result.requests == pytest.approx(500, abs=100 if poisson else 3)
    gaps = [after - before for before, after in pairwise(came)]
    even = sum(abs(gap - 0.002) < 0.0008 for gap in gaps) / len(gaps)
    assert (even < 0.5) == poisson


async def stalled(rate: float | None) -> Result:
    async with serving(stalling(2.0, 0.2)) as server:
        return await run(load(server, seconds=4.0, rate=rate), [GET])


async def test_a_stall_shows_in_the_open_loop_only() -> None:
    """A server that stalls 200 ms every 2 s shows a p99 near 200 ms, which the closed loop does not see."""
    opened, closed = await asyncio.gather(stalled(300.0), stalled(None))
    assert 150 < opened.p99_ms < 250
    assert opened.p50_ms < 50
    assert closed.p99_ms < 50
    assert closed.max_ms > 150


async def test_latency_counts_from_when_a_request_was_due() -> None:
    """Asked for twice what it can do, a server shows growing latencies; the closed loop asks less and hides them."""

    async def behave(_: bytes, writer: Writer) -> None:
        await asyncio.sleep(0.01)
        writer.write(OK)

    async with serving(behave) as server:
        steady = load(server, connections=1, seconds=1.0, poisson=False)
        opened = await run(replace(steady, rate=200.0), [GET])
        closed = await run(steady, [GET])
    assert opened.requests == pytest.approx(200, abs=3)
    assert opened.per_second < 105
    # The last was due after 1 s and is answered after at least 2; half way, half of that.
    assert opened.max_ms > 950
    assert opened.p50_ms == pytest.approx(opened.max_ms / 2, rel=0.2)
    assert opened.late_p99_ms < 100
    assert closed.p99_ms < opened.p50_ms / 2


async def test_what_cannot_be_sent_is_dropped() -> None:
    """With one connection busy and the backlog full, arrivals are dropped and counted; none is lost from the books."""

    async def behave(_: bytes, writer: Writer) -> None:
        await asyncio.sleep(0.1)
        writer.write(OK)

    async with serving(behave) as server:
        short = load(server, connections=1, rate=200.0, poisson=False, seconds=0.5, backlog=3)
        result = await run(short, [GET])
        given_up = await run(replace(short, backlog=1000, timeout_s=0.3), [GET])
    for outcome in (result, given_up):
        assert outcome.dropped > 80
        assert outcome.requests + outcome.errors + outcome.dropped == pytest.approx(100, abs=1)


async def test_alarm_is_finer_than_a_millisecond() -> None:
    """An alarm is never early, and a later setting replaces the earlier."""
    fired = asyncio.Queue[float]()
    bell = alarm(lambda: fired.put_nowait(time.monotonic()))
    try:
        for delay_s in (0.0004, 0.003):
            bell.set(time.monotonic() + 5)
            at = time.monotonic() + delay_s
            bell.set(at)
            assert await asyncio.wait_for(fired.get(), 1) >= at - 1e-6
    finally:
        bell.close()
    assert fired.empty()


def made_request(random: Random) -> bytes:
    return render("GET", f"/patients/{random.randrange(10)}", {})


async def test_a_process_of_its_own() -> None:
    """The child measures like the parent, and its CPU share is its own."""
    async with serving(answer(OK)) as server:
        given = load(server, rate=100.0, poisson=False, seconds=0.5)
        result = await asyncio.to_thread(run_in_process, given, made_request, cpu=0)
    assert result.requests == len(server.seen) == pytest.approx(50, abs=2)
    assert 0 < result.generator_cpu_share < 0.8
    assert not result.saturated
    assert result.to_dict()["statuses"] == {200: result.requests}


@pytest.mark.parametrize(("cpu_s", "saturated"), [(1.5, False), (1.7, True)])
def test_a_busy_generator_is_flagged(cpu_s: float, saturated: bool) -> None:
    """A generator that has used more than 80 % of its core says that the run is worth nothing."""
    tally = Tally()
    tally.marks = [(10.0, 1.0, 100), (12.0, 1.0 + cpu_s, 300)]
    result = load_module._result(tally)
    assert result.saturated == saturated
    assert result.generator_cpu_share == pytest.approx(cpu_s / 2)
    assert result.per_second == 100


async def test_lateness_is_the_generators_own() -> None:
    """A generator that does not come to send in time shows it, for its lateness is in every latency."""

    def dawdling(_: Random) -> bytes:
        time.sleep(0.02)
        return GET

    async with serving(answer(OK)) as server:
        result = await run(load(server, rate=100.0), dawdling)
    assert result.late_p99_ms > 15


async def test_a_failed_process_says_why() -> None:
    """What goes wrong in the child is told by an exception in the parent."""
    async with serving(answer(OK)) as server:
        pass
    with pytest.raises(LoadError, match="ConnectionRefusedError"):
        await asyncio.to_thread(run_in_process, load(server), [GET])
