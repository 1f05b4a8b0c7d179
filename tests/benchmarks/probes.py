"""Looks at a workload's answers before they are timed, and finds the cursors of deep pages."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from statistics import fmean
from urllib.parse import parse_qs, urlsplit

import msgspec
import orjson

from r4.search import COUNT_MAX
from tests.benchmarks.bench import BadRunError, Client, Reply, Server
from tests.benchmarks.crowd_data import Stored
from tests.benchmarks.workloads import PAGE, Workload

SAMPLE = 12
WALKERS = 4


class _Links(msgspec.Struct):
    """A page's, its entries passed over."""

    link: list[dict[str, str]]


_links = msgspec.json.Decoder(_Links).decode


@dataclass(frozen=True)
class Probe:
    """Mean entries of an answer; `places` are what comes after a path, by tenant, where its pages are deep."""

    matches: float
    includes: float
    places: Sequence[str] = ()

    def place_of(self, tenant: int) -> str:
        return self.places[tenant] if self.places else ""

    def __str__(self) -> str:
        return f"{self.matches:.1f}" + (f" + {self.includes:.1f}" if self.includes else "")


def probe(workload: Workload, servers: Sequence[Server], found: Stored) -> Probe:
    """Raises BadRunError, with the reason, for a workload that is not to be timed."""
    chance = Random(workload.name)
    clients = [Client(server) for server in servers]
    _answered(clients[0], workload.path(chance, found.crowd), found.keys[0])  # else every list would be walked for nothing
    places = _deep_places(workload, servers[0], found) if workload.deep else []
    seen = []
    for _ in range(SAMPLE):
        tenant = chance.randrange(len(found.keys))
        path = workload.path(chance, found.crowd) + (places[tenant] if places else "")
        one, *others = [_answered(client, path, found.keys[tenant]) for client in clients]
        if any(other.body != one.body for other in others):
            raise BadRunError("the paths' answers differ")
        seen.append(_modes(one))
    matches, includes = [modes.count("match") for modes in seen], [modes.count("include") for modes in seen]
    if not all(matches):
        raise BadRunError(f"{matches.count(0)} of {SAMPLE} answers are empty")
    if workload.includes and not any(includes):
        raise BadRunError("nothing is included")
    return Probe(fmean(matches), fmean(includes), places)


def _answered(client: Client, path: str, key: str) -> Reply:
    """Strict, so that a parameter that is not known yet is refused."""
    reply = client.ask(path, key, Prefer="handling=strict")
    if reply.status != 200:
        raise BadRunError("not answered yet: 400" if reply.status == 400 else f"answered {reply.status}")
    return reply


def _modes(reply: Reply) -> list[str]:
    document = orjson.loads(reply.body)
    if document["resourceType"] != "Bundle":
        return ["match"]
    return [entry["search"]["mode"] for entry in document.get("entry", ())]


def _deep_places(workload: Workload, server: Server, found: Stored) -> list[str]:
    """Of each tenant, the cursor of the list's last page."""
    path = workload.path(Random(0), found.crowd)
    kind = re.split(r"[/?]", path)[2]
    rows = len(found.crowd.of_type(kind)) - PAGE
    with ThreadPoolExecutor(WALKERS) as pool:
        return list(pool.map(lambda key: _walked(Client(server), path, key, rows), found.keys))


def _walked(client: Client, path: str, key: str, rows: int) -> str:
    """A cursor is bound to the query, but not to the length of its pages, so that long ones lead there."""
    place = ""
    while rows:
        count = min(rows, COUNT_MAX)
        reply = _answered(client, path.replace(f"_count={PAGE}", f"_count={count}") + place, key)
        place = f"&_cursor={_cursor(reply.body)}"
        rows -= count
    return place


def _cursor(body: bytes) -> str:
    for link in _links(body).link:
        if link["relation"] == "next":
            cursors: list[str] = parse_qs(urlsplit(link["url"]).query)["_cursor"]
            return cursors[0]
    raise BadRunError("the list is shorter than the data")
