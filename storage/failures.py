"""What a failed statement means: bad data, a server that is away, time that ran out, or a fault of ours."""

import asyncpg

from base.errors import Expired, Invalid, Problem, ServerBusy

_AWAY = ("08", "53", "57P", "25006")  # connection, insufficient resources, operator intervention, a primary no more
_CANCELED = "57014"  # statement_timeout
_IN_THE_WAY = "40001"  # of a read: its replica had to replay what it was in the way of


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def is_data(error: BaseException) -> bool:
    """SQLSTATE class 22, what asyncpg refuses to encode, and text that is no UTF-8."""
    return _state(error).startswith("22") or isinstance(error, asyncpg.DataError | UnicodeEncodeError)


def is_away(error: BaseException) -> bool:
    closed = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.DataError)
    lost = isinstance(error, asyncpg.InternalClientError)
    return closed or lost or isinstance(error, OSError) or _state(error).startswith(_AWAY)


def worth_another_try(error: BaseException) -> bool:
    """A read may be asked twice. What failed for its data would fail again, and a lender's refusal has waited already."""
    if isinstance(error, Problem | TimeoutError):
        return False
    return _state(error) in (_CANCELED, _IN_THE_WAY) or is_away(error)


def problem_of(error: BaseException) -> BaseException:
    """What the client is told; an unknown error stays itself, and is answered with 500 and no words of its own."""
    if isinstance(error, Problem):
        return error
    if is_data(error):
        return Invalid("a value cannot be looked up: it holds characters that the database does not take")
    if isinstance(error, TimeoutError) or _state(error) == _CANCELED:
        return Expired("the database took too long")
    if is_away(error):
        return ServerBusy("the database is away")
    if _state(error) == _IN_THE_WAY:
        return ServerBusy("the database had something else to do first")
    return error
