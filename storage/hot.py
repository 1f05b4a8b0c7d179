"""What every connection prepares as it opens, and what a warm-up asks."""

from typing import Any

from base.operations import Kind, Operation
from r4.dates import EARLIEST
from r4.search import parse_search
from storage.searching.lists import FIRST, list_statement
from storage.statements import Statement, read_statement, review_statement


def hot_statements() -> tuple[str, ...]:
    """What every connection prepares as it opens: the seven operations' plain and batched forms."""
    statements = [review_statement()]
    for type_name in ("Encounter", "Patient", "Practitioner"):
        statements += [read_statement(type_name), list_statement(parse_search(type_name, ()))]
    return tuple(text for statement in statements for text in (statement.plain, statement.batch))


def probe_of(operation: Operation) -> tuple[Statement, tuple[Any, ...]]:
    """The operation's hot statement, for something that no tenant has: an id of 65 characters is none."""
    nothing = "-" * 65
    if operation.kind is Kind.REVIEW:
        return review_statement(), (nothing, EARLIEST, "", -1, "", "", 1)
    if operation.kind is Kind.READ:
        return read_statement(str(operation.type)), (nothing,)
    return list_statement(parse_search(str(operation.type), ())), (*FIRST, 1)
