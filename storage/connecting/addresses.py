"""The servers that URLs name. A server's name is its host and port, and never who logs in there."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from base.config import Config

PORT = 5432
_ROUTING = {"target_session_attrs"}  # which of several servers: that is our own to find out


@dataclass(frozen=True)
class Address:
    """One server: `name` is HOST:PORT, `url` how we log in there."""

    name: str
    url: str = field(repr=False)


def addresses_of(urls: Iterable[str]) -> list[Address]:
    """Every server once, in the order given; a URL that names several hosts stands for each of them."""
    found: dict[str, Address] = {}
    for url in urls:
        for name in _names(url):
            found.setdefault(name, Address(name, at(url, name)))
    return list(found.values())


def servers_of(config: Config) -> list[Address]:
    """Of the settings; none where there is but one server, whose URL is used as it stands."""
    if not config.replica_url and "," not in config.database_url:
        return []
    found = addresses_of([config.database_url, *config.replica_url])
    return found if len(found) > 1 else []


def place_of(url: str) -> str:
    """HOST:PORT/DATABASE, for who is told of it; never who logs in, and nothing of a password, encoded or not."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the database"
    # Behind a /, ? or # that is not encoded the rest of a password would look like a path, and its beginning like a port.
    if not parts.scheme.startswith("postgres") or "@" in parts.path + parts.query + parts.fragment:
        return "the database"
    return f"{parts.netloc.rpartition('@')[2] or 'the default address'}{parts.path}"


def at(url: str, name: str) -> str:
    """The same login and database on another server."""
    parts = urlsplit(url)
    login, login_ends, _ = parts.netloc.rpartition("@")
    query = urlencode([pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in _ROUTING])
    return urlunsplit(parts._replace(netloc=f"{login}{login_ends}{name}", query=query))


def _names(url: str) -> list[str]:
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    return [host if _has_port(host) else f"{host}:{PORT}" for host in hosts]


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].rpartition(":")[2].isdecimal()
