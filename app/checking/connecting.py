"""Connections that can only read, and what to do when there is none."""

import socket

import asyncpg

from app.checking.findings import Finding, failure
from storage.connecting.addresses import place_of

CONNECT_S = 5.0
_SETTINGS = {
    "application_name": "sluice check",
    "default_transaction_read_only": "on",  # whatever is asked, nothing is changed
    "statement_timeout": "8s",
    "lock_timeout": "2s",
    "jit": "off",
}
ERRORS = (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""That connecting raises; ValueError: of a URL that is none."""
_EXPECTED = "expected: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with % codes for special characters, as {setting}"
_OF_SQLSTATE = {
    "28P01": "look at the user and the password in {setting}",
    "28000": "look at the user in {setting}, and at the server's pg_hba.conf",
    "3D000": "make the database as docs/operations.md says (“From nothing to running”), or correct its name in {setting}",
    "53300": "see who has them: SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1; then raise max_connections",
    "57P03": "it starts or stops: wait, then look into its log",
    "08P01": "a pooler that refuses our settings? docs/operations.md, “PgBouncer”",
}
_OF_ERROR: tuple[tuple[type[BaseException], str], ...] = (
    (ValueError, _EXPECTED),
    (socket.gaierror, "is the host's name in {setting} right, and known on this machine?"),
    (ConnectionRefusedError, "is PostgreSQL started there, and does it listen on that address and port? see {setting}"),
    (TimeoutError, "is the host in {setting} right, and does no firewall stand between?"),
)


async def connect(url: str, **settings: str) -> asyncpg.Connection:
    return await asyncpg.connect(url, timeout=CONNECT_S, server_settings={**_SETTINGS, **settings})


def no_connection(url: str, error: BaseException, setting: str) -> Finding:
    """`setting`: the variable that holds the URL."""
    where = "" if isinstance(error, ValueError) else f" to {place_of(url)}"
    sqlstate = getattr(error, "sqlstate", None)
    remedy = _OF_SQLSTATE.get(sqlstate or "") or next(
        (text for kind, text in _OF_ERROR if isinstance(error, kind)), "see {setting}"
    )
    return failure(f"no connection{where}: {reason_of(error)}", remedy.format(setting=setting))


def reason_of(error: BaseException) -> str:
    """One line, without what a URL holds."""
    if isinstance(error, ValueError):
        return "this is no URL of a database"  # its own words may repeat a part of the password
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:.0f} s"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error).partition("\n")[0]
