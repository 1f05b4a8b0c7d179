"""Statements of versions, histories and all that belongs to a patient. Always direct: none of them shares a statement."""

from functools import lru_cache

from storage.queries import load
from storage.statements import Statement, statement_of

_SQL = load("records.sql")

_PLACE = {"after": "timestamptz", "after_type": "text", "after_id": "text", "after_version": "int"}


@lru_cache(maxsize=1)
def vread_statement() -> Statement:
    """One version of a resource. Values: (id, type, version)."""
    types = {"id": "text", "type": "text", "version": "int"}
    return statement_of("vread", types, lambda at: _SQL["vread"].format(**at), bounded=False, reads_one=True)


@lru_cache(maxsize=1)
def history_of_one() -> Statement:
    """Values: (id, type, since, after_version, rows). The current version comes always; its body only where it is asked for."""
    types = {"id": "text", "type": "text", "since": "timestamptz", "after_version": "int", "rows": "int"}
    return statement_of("history of one", types, lambda at: _SQL["history_of_one"].format(**at), bounded=False, pages=True)


@lru_cache(maxsize=1)
def history_of_types() -> Statement:
    """Values: (types, since, after, after_type, after_id, after_version, rows); `types` with commas between."""
    return _history("history_of_types", {"types": "text"})


@lru_cache(maxsize=1)
def history_of_all() -> Statement:
    """Values: (since, after, after_type, after_id, after_version, rows)."""
    return _history("history_of_all", {})


def _history(name: str, first: dict[str, str]) -> Statement:
    types = {**first, "since": "timestamptz", **_PLACE, "rows": "int"}

    def text(at: dict[str, str]) -> str:
        return _SQL[name].format(version_of=_SQL["version_of"].format(**at), **at)

    return statement_of(name.replace("_", " "), types, text, bounded=False, pages=True)


@lru_cache(maxsize=1)
def everything_statement() -> Statement:
    """Values: (id, since, types, dated, start, end, after_kind, after_type, after_id, rows)."""
    filters = {"since": "timestamptz", "types": "text", "dated": "boolean", "start": "timestamptz", "end": "timestamptz"}
    place = {"after_kind": "int", "after_type": "text", "after_id": "text"}

    def text(at: dict[str, str]) -> str:
        pieces = {name: _SQL[name].format(**at) for name in ("chosen", "passing")}
        return _SQL["everything"].format(**pieces, **at)

    return statement_of("everything", {"id": "text", **filters, **place, "rows": "int"}, text, bounded=False)
