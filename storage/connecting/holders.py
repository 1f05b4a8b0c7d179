"""Who holds a connection: the name of its coroutine, and the line of ours that it waits at."""

import asyncio
from pathlib import Path
from types import FrameType
from typing import Any

_HOUSE = Path(__file__).parents[2]
_LENDING = {Path(__file__).parent / name for name in ("connections.py", "stock.py", "servers.py")}


def who(task: "asyncio.Task[Any] | None") -> dict[str, str]:
    """`holder` and `at`, for a log line: names and lines of code alone, never a value."""
    if task is None:
        return {"holder": "nobody", "at": ""}
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", task.get_name())
    return {"holder": name, "at": "it has ended" if task.done() else _place(coroutine)}


def _place(awaited: Any) -> str:
    """Of those that wait for each other, the innermost that is of this house: what it waits for in turn is a library's."""
    found, innermost = "", None
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            found, innermost = _line(frame) or found, frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    # What is a library's from end to end waits at a library's place.
    return found or (f"{Path(innermost.f_code.co_filename).name}:{innermost.f_lineno}" if innermost else "")


def _line(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    ours = path.is_relative_to(_HOUSE) and "site-packages" not in path.parts and path not in _LENDING
    return f"{path.relative_to(_HOUSE)}:{frame.f_lineno}" if ours else ""
