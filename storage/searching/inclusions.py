"""What a page brings beside its matches: _include and _revinclude, in the same statement as the page."""

from collections.abc import Sequence

from r4.search import Inclusion, reference_parameters
from storage.searching.branches import At

INCLUDED_MAX = 1000
"""Of one page; more is cut off, and the answer says so."""
DEPTH_MAX = 5  # steps of :iterate


def included(inclusions: Sequence[Inclusion], type_name: str, at: At) -> str:
    """(type, id) of what is included, without the matches that are shown; they stand in `shown`, by their id."""
    first = " UNION ".join(_step(inclusion, "f", at) for inclusion in inclusions)
    again = [inclusion for inclusion in inclusions if inclusion.iterate]
    origin = f"(SELECT '{type_name}' COLLATE \"C\" AS type, id FROM shown) f"
    begin = f"SELECT i.type, i.id FROM {origin} CROSS JOIN LATERAL ({first}) i(type, id)"
    reached = f"SELECT DISTINCT type, id FROM ({begin}) b"
    if again:
        further = " UNION ".join(_step(inclusion, "r", at) for inclusion in again)
        # A reference may lead to nothing, and others lead there too: those are not reached through it.
        kept = f"SELECT * FROM fhir.resource WHERE tenant_id = {at['tenant']} AND id = r.id AND type = r.type OFFSET 0"
        there = f" AND (SELECT true FROM ({kept}) e WHERE NOT e.deleted LIMIT 1)" if any(i.reverse for i in again) else ""
        reached = (
            f"WITH RECURSIVE reached(type, id, depth) AS (SELECT type, id, 1 FROM ({begin}) b UNION\n"
            f"SELECT i.type, i.id, r.depth + 1 FROM reached r CROSS JOIN LATERAL ({further}) i(type, id)\n"
            f"WHERE r.depth < {DEPTH_MAX}{there})\n"
            "SELECT DISTINCT type, id FROM reached"
        )
    return f"SELECT n.type, n.id FROM ({reached}) n WHERE NOT (n.type = '{type_name}' AND n.id IN (SELECT id FROM shown))"


def _step(inclusion: Inclusion, origin: str, at: At) -> str:
    """(type, id) that one inclusion leads to from the resource `origin`."""
    rules = []
    for parameter in reference_parameters(inclusion):
        targets = (inclusion.target,) if inclusion.target else parameter.targets
        of_target = f" AND z.to_type IN ({_quoted(targets)})" if targets else ""
        rules.append(f"(z.path IN ({_quoted(parameter.paths)}){of_target})")
    where = f"z.tenant_id = {at['tenant']} AND z.type = '{inclusion.type}' AND ({' OR '.join(rules)})"
    if inclusion.reverse:
        found = (
            f"SELECT z.type, z.id FROM fhir.reference z WHERE z.to_type = {origin}.type AND z.to_id = {origin}.id AND {where}"
        )
    else:
        found = (
            f"SELECT z.to_type, z.to_id FROM fhir.reference z WHERE {origin}.type = '{inclusion.type}'"
            f" AND z.id = {origin}.id AND {where}"
        )
    return f"(SELECT * FROM ({found} OFFSET 0) z LIMIT {INCLUDED_MAX + 1})"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
