"""The slowest statements, as pg_stat_statements keeps them: with $1 where values stood."""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import queries
from storage.queries import load

if TYPE_CHECKING:
    from app.checking.scene import Scene

_SQL = load("check.sql")
_MOST = 20
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_LITERAL = re.compile(r"""\$(\w*)\$.*?\$\1\$|[eEbBxX]?'(?:[^'\\]|''|\\.)*'|(?<![\w$."])\d[\d.]*""", re.DOTALL)
_VALUE = re.compile(r"\$\d+|\b(?:true|false|null)\b", re.IGNORECASE)
_VALUES = re.compile(r"\?(?:\s*,\s*\?)*")


async def slowest(scene: "Scene") -> list[dict[str, Any]]:
    """Raises asyncpg.PostgresError where there is no such extension, or no right to see it."""
    async with scene.connected() as connection:
        rows = await connection.fetch(_SQL["statements"], 2 * _MOST)
    shown = [row for row in rows if not _names().get(_form(row["query"]), "").startswith("check.sql ")]  # what we ask ourselves
    return [
        {
            "total_s": round(row["total_ms"] / 1000, 3),
            "calls": row["calls"],
            "mean_ms": round(row["mean_ms"], 3),
            "max_ms": round(row["max_ms"], 3),
            "rows": row["rows"],
            "name": _names().get(_form(row["query"])),
            "statement": told(row["query"]),
        }
        for row in shown[:_MOST]
    ]


def told(query: str) -> str:
    """One line.

    A statement whose entry was thrown out while it ran is kept with its values: what looks like one is taken out here as well.
    """
    return " ".join(_LITERAL.sub("?", _COMMENT.sub(" ", query)).split())


def _form(query: str) -> str:
    """Equal for a statement as it is written and as it is kept."""
    return re.sub(r"[\s;]+", "", _VALUES.sub("?", _VALUE.sub("?", told(query))))


@cache
def _names() -> dict[str, str]:
    """Where a statement of ours is written, by its form: `facilities.sql due`."""
    folder = Path(queries.__file__).parent / "sql"
    return {
        _form(text): f"{path.name} {name}" for path in sorted(folder.glob("*.sql")) for name, text in load(path.name).items()
    }
