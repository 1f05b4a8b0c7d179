"""Pages of a sorted list: few matches are gathered and sorted, many are found along the index of the first key.

Of one key an index has the list in its order. Of several the first one's is walked until the page is full, on to the end of
what equals the last one found, and that is sorted by the others. Where no index has the first key, all matches are sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from r4.parameters import ORDER
from r4.search import SortKey
from storage.searching import branches
from storage.searching.branches import At, Shape, asked_of, lookups, owned, owner
from storage.searching.sorting import Key, as_text, is_turned, is_walked, keys_of, ties


def matches(type_name: str, sort: Sequence[SortKey], shape: Shape, at: At) -> str:
    """(rank: the place in the page, id, keys) of a page's matches."""
    page = _Page(type_name, sort, keys_of(type_name, sort), shape, at)
    texts = ", ".join(as_text(key, f"k{number}") for number, key in enumerate(page.keys))
    return (
        f"SELECT row_number() OVER () AS rank, id, ARRAY[{texts}, rank::text] AS keys"
        f" FROM (SELECT * FROM ({page.text()}) p LIMIT {at['rows']}) s"
    )


@dataclass(frozen=True, slots=True)
class _Page:
    """Each part of it gives (rank, id, k0, k1, …), in order; a part that the page has no need of is not begun."""

    type: str
    sort: Sequence[SortKey]
    keys: Sequence[Key]
    shape: Shape
    at: At

    def text(self) -> str:
        matching = branches.all_matches(self.type, self.shape, self.at)
        if not is_walked(self.sort, self.keys):
            return self._sorted(_unordered(matching), "true")
        if not self.shape:
            return self._walked("")
        few = "(SELECT DISTINCT rank, id FROM few)"
        limit = branches.few(self.shape[0])
        is_few = f"(SELECT count(*) FROM few) <= {limit}"
        return (
            f"WITH few(rank, id) AS MATERIALIZED (SELECT * FROM ({matching}) g LIMIT {limit + 1})\n"
            f"{self._sorted(few, is_few)}\nUNION ALL {self._walked(f'NOT {is_few} AND ')}"
        )

    def _sorted(self, source: str, condition: str) -> str:
        """What a source of (rank, id) has after the place."""
        names = ", ".join(f"k{number}" for number in range(len(self.keys)))
        keyed = ", ".join(f"{self._aggregate(key)} AS k{number}" for number, key in enumerate(self.keys))
        order = [f"k{number} IS NULL, k{number}{_down(key.descending)}" for number, key in enumerate(self.keys)]
        return (
            f"(SELECT rank, id, {names} FROM (SELECT x.rank, x.id, {keyed} FROM {source} x WHERE {condition} OFFSET 0) g\n"
            f"WHERE {self.at['first']} OR {self._after()}"
            f" ORDER BY {', '.join([*order, *self._ties()])} LIMIT {self.at['rows']})"
        )

    def _aggregate(self, key: Key) -> str:
        pick, value, counts = "max" if key.descending else "min", key.value.format("y"), key.counts.format("y")
        collate = ' COLLATE "C"' if key.sql_type == "text" else ""
        return f"(SELECT {pick}({value}){collate} FROM {self._rows_of(key)} y WHERE {counts})"

    def _rows_of(self, key: Key) -> str:
        return f"(SELECT * FROM fhir.{key.table} WHERE {owned('x.id', self.type, self.at)} OFFSET 0)"

    def _ties(self, alias: str = "") -> list[str]:
        return [f"{alias}{column}{_down(is_turned(self.sort))}" for column in ties(self.type, self.sort)]

    def _after(self) -> str:
        """By the first key, or equal by it and after by the next, and so on to what decides between equals."""
        columns = ties(self.type, self.sort)
        places = ", ".join(self.at[{"id": "after"}.get(column, column)] for column in columns)
        text = f"({', '.join(columns)}) {'<' if is_turned(self.sort) else '>'} ({places})"
        for number, key in reversed(list(enumerate(self.keys))):
            mine, place = f"k{number}", self.at[f"k{number}"]
            beyond = f"{mine} {'<' if key.descending else '>'} {place}"
            text = f"({beyond} OR ({mine} IS NULL AND {place} IS NOT NULL) OR ({mine} IS NOT DISTINCT FROM {place} AND {text}))"
        return text

    def _walked(self, condition: str) -> str:
        """Along the index of the first key, then, as long as the page is not full, what has no value."""
        parts = [self._along(condition)] if len(self.keys) == 1 else self._in_groups(condition)
        if not self.keys[0].always:
            parts.append(self._missing(condition))
        return "\nUNION ALL ".join(parts)

    def _along(self, condition: str) -> str:
        """Of types that have no other order the rank is 0: saying so, the index is known to have the ids in theirs."""
        key, at = self.keys[0], self.at
        value, down, beyond = key.value.format("x"), _down(key.descending), "<" if key.descending else ">"
        if key.table == "resource":
            begins = f"({value}, x.id) {beyond} ({at['k0']}, {at['after']})"
            found = f"SELECT {value} AS v, x.rank, x.id"
        else:
            rank = "" if self.type in ORDER else " AND x.rank = 0"
            begins = f"({value}, x.rank, x.id) {beyond} ({at['k0']}, {at['rank']}, {at['after']}){rank}"
            found = f"SELECT DISTINCT {value} AS v, x.rank, x.id"
        order = f"v{down}, x.id{down}" if key.table == "resource" else f"v{down}, x.rank{down}, x.id{down}"
        return (
            f"(SELECT rank, id, v AS k0 FROM ({found} FROM {self._source(condition)}"
            f" AND {begins}{self._matching()} ORDER BY {order} LIMIT {at['rows']}) w)"
        )

    def _in_groups(self, condition: str) -> list[str]:
        """What equals the place by the first key, and what comes after it."""
        key, at = self.keys[0], self.at
        value, down, beyond = key.value.format("x"), _down(key.descending), "<" if key.descending else ">"
        source, matching = self._source(condition), self._matching()
        equal = _unordered(f"SELECT x.rank, x.id FROM {source} AND {value} = {at['k0']}{matching}")
        after = (
            f"(SELECT rank, id FROM (SELECT DISTINCT {value} AS v, x.rank, x.id FROM {source} AND {value} {beyond} {at['k0']}"
            f"{matching} ORDER BY v{down}, x.rank{down}, x.id{down} OFFSET 0) d\n"
            f"ORDER BY v{down} FETCH FIRST ({at['rows']}) ROWS WITH TIES)"
        )
        return [self._sorted(equal, "true"), self._sorted(after, "true")]

    def _missing(self, condition: str) -> str:
        key, at = self.keys[0], self.at
        none = f"(SELECT true FROM {self._rows_of(key)} y WHERE {key.counts.format('y')} LIMIT 1) IS NULL"
        source = f"fhir.resource x WHERE {condition}{owner(self.type, at)} AND NOT x.deleted"
        others = lookups(asked_of(self.shape, at), "x.id", "x.rank", at)
        if len(self.keys) > 1:
            return self._sorted(f"(SELECT x.rank, x.id FROM {source} AND {none}{others})", "true")
        down, beyond = _down(is_turned(self.sort)), "<" if is_turned(self.sort) else ">"
        return (
            f"(SELECT x.rank, x.id, NULL::{key.sql_type} AS k0 FROM {source} AND (x.rank, x.id) {beyond}"
            f" ({at['rank_missing']}, {at['after_missing']}) AND {none}{others}"
            f" ORDER BY x.rank{down}, x.id{down} LIMIT {at['rows']})"
        )

    def _source(self, condition: str) -> str:
        key = self.keys[0]
        return f"fhir.{key.table} x WHERE {condition}{owner(self.type, self.at)} AND {key.counts.format('x')}"

    def _matching(self) -> str:
        """That of a resource's several values this one counts, and that it meets what is asked for."""
        key, others = self.keys[0], lookups(asked_of(self.shape, self.at), "x.id", "x.rank", self.at)
        if key.always:
            return others
        value, mine, before = key.value.format("y"), key.value.format("x"), ">" if key.descending else "<"
        other = f"SELECT true FROM {self._rows_of(key)} y WHERE {key.counts.format('y')} AND {value} {before} {mine} LIMIT 1"
        return f" AND ({other}) IS NULL{others}"


def _unordered(matching: str) -> str:
    """Each once. The fence keeps DISTINCT from choosing an index by its order."""
    return f"(SELECT DISTINCT rank, id FROM ({matching} OFFSET 0) u)"


def _down(descending: bool) -> str:
    return " DESC" if descending else ""
