"""What metrics cost of a request: `python -m tests.benchmarks.metrics_cost`.

Two ways, for the first is exact and leaves out what it does to caches, and the second has all and its noise: the code that
observes and counts, in a tight loop; and one server whose slots do something or nothing, turn by turn.
"""

import argparse
import asyncio
import statistics
import sys
import timeit
from contextlib import ExitStack
from time import perf_counter, process_time

from base.operations import OPERATIONS
from metrics.catalog import Metrics
from simulator.load import Load
from storage.embedded import throwaway
from tests.benchmarks.bench import Figures, between, measure, median_of, ratio, served, turned, warm_up
from tests.benchmarks.paths import prepare, requests_of
from tests.benchmarks.variants import SWITCH

TENANTS, CONNECTIONS = 10, 64
PATHS = ("direct", "channel")
_LOOPS = 20_000
_SECONDS = (("queue", 0.0003), ("pool", 0.0), ("query", 0.0009), ("encode", 0.0001))


def code_us() -> float:
    """Of one request through a channel: all that it touches, as if each had its batch and its connection for itself."""
    metrics = Metrics()
    operation = OPERATIONS[0].name
    wait = metrics.pool_wait.child("api")
    messages, sizes = (
        {operation: family.child(*labels, operation)}
        for family, *labels in (
            (metrics.channel_messages, "t1"),
            (metrics.batch_size,),
        )
    )

    def one() -> None:
        perf_counter()  # the middleware's second look at the clock
        messages[operation].value += 1
        wait.observe(0.0)
        sizes[operation].observe(1)
        whole, parts = metrics.answered(operation, "channel", "treatment", "database")
        whole.observe(0.0021)
        for part, (_, seconds) in zip(parts, _SECONDS, strict=True):
            part.observe(seconds)
        metrics.requests.child(operation, "channel", "200", "").add()

    return statistics.median(timeit.repeat(one, number=_LOOPS, repeat=15, timer=process_time)) / _LOOPS * 1e6


def run(path: str, connections: int, *, rounds: int, seconds: float) -> tuple[list[Figures], list[Figures]]:
    """Figures of each round: with metrics, and with slots that do nothing."""
    with ExitStack() as stack:
        cluster = stack.enter_context(throwaway({}))
        keys = asyncio.run(prepare(cluster.url))[:TENANTS]
        settings = {"SLUICE_CHANNELS": "on" if path == "channel" else "off"}
        server = stack.enter_context(served("switched", cluster.url, settings))
        if path == "channel":
            warm_up(server, keys)
        found: dict[str, list[Figures]] = {"on": [], "off": []}
        now = "on"
        for number in range(rounds):
            requests = requests_of(keys, number)
            for state in turned(("on", "off"), number):
                if state != now:
                    server.process.send_signal(SWITCH)
                    now = state
                load = Load("127.0.0.1", server.port, connections=connections, seconds=seconds, warmup_s=0.0)
                found[state].append(measure(server, cluster, load, requests))
        return found["on"], found["off"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument(
        "--most", type=float, default=1.0, help="exit with 1 when the code is a larger share of a request's CPU"
    )
    given = parser.parse_args()
    share = max(_compare(path, given.connections, given.rounds, given.seconds) for path in PATHS)
    sys.exit(f"{share:.1%} of a request is too much" if share > given.most else 0)


def _compare(path: str, connections: int, rounds: int, seconds: float) -> float:
    """The code's share of a request's CPU, the database's included."""
    code = code_us()
    with_them, without = run(path, connections, rounds=rounds, seconds=seconds)
    ours, others = ([each.server_us for each in figures] for figures in (with_them, without))  # the database is none of it
    server, whole = (median_of(values)[0] for values in (ours, [each.cpu_us for each in with_them]))
    print(
        f"{path}, {connections} connections: {whole:.0f} µs of CPU a request, the server's {server:.0f}, "
        f"{between(ratio(ours, others))} of what it is without; observing and counting are {code:.2f} µs, {code / whole:.1%}",
        flush=True,
    )
    return code / whole


if __name__ == "__main__":
    main()
