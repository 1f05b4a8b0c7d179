"""Statements live in sql/*.sql, and are loaded once.

A statement begins with a comment line `-- name: what it does` and goes to the next such line. Its parameters are $1, $2, …
"""

import re
from pathlib import Path

_HEAD = re.compile(r"^-- ([a-z_]+): ", re.MULTILINE)
_FOLDER = Path(__file__).parent / "sql"


def load(file_name: str) -> dict[str, str]:
    """Statements of one file by name.

    Raises ValueError when a name stands twice.
    """
    text = (_FOLDER / file_name).read_text(encoding="utf-8")
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    statements = {head[1]: text[head.start() : end].strip() for head, end in zip(heads, ends, strict=True)}
    if len(statements) != len(heads):
        raise ValueError(f"{file_name} has a statement name twice")
    return statements
