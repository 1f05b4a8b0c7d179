"""docs/fhir.md: what of FHIR R4 works here, made of the tables that the server goes by."""

from collections.abc import Iterable, Iterator, Sequence

from docs.rules import ABSENT, EXAMPLES, REFUSED, RULES, Example, Refusal, Rule
from handlers.errors import STATUS
from r4.criteria import modifiers_of
from r4.parameters import COMPARTMENTS, EVERY_TYPE, ORDER, PARAMETERS, Parameter, ParamType
from r4.search import inclusions_of

_HEAD = """\
<!-- Written by `python -m docs.build` (`make docs`) from docs/rules.py and the tables. -->

# FHIR R4

What an EHR can ask of this server, and what it gets. The base is `[server]/fhir`, the key says whose data is asked for.

```sh
FHIR=http://127.0.0.1:8080/fhir
KEY="Authorization: Bearer sluice_..."
"""
_OF_TYPES = """\
Beside these every type of R4 can be read, and searched by what every type has. Names, types and paths are those of
[R4's registry](https://hl7.org/fhir/R4/searchparameter-registry.html), and all of R4's are here unless a type says otherwise.
A system is what the binding of a `code` implies, and may be left out. A reference also takes its targets' names as modifiers
(`subject:Patient=1`), and can be chained (`subject:Patient.name=smith`). Dates and quantities take the prefixes eq, ne, gt, lt,
ge, le, sa, eb and ap."""
_PAGES = """\
A page's `link` has `next` while there is more: follow it as it is. What is found has an `ETag`; every answer has an
`X-Request-ID`, by which our log finds it, and says in `X-Sluice-Path` whether it came by the tenant's `channel` or `direct`:
the bytes are the same."""
_REFUSAL = """\
A refusal is an OperationOutcome. Its one issue says what is wrong, and `expression` where:

```json
{"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid",
  "diagnostics": "the modifier :above is not supported for gender", "expression": ["gender"]}]}
```"""


_TOO_LONG = ((414, "too-long"), (431, "too-long"))  # of a URL, and of headers: not problems of ours, but HTTP's


def page() -> str:
    examples = "\n".join(line for example in EXAMPLES for line in _curl(example))
    parts = [
        f"{_HEAD}{examples}\n```",
        _PAGES,
        "## What is kept of R4's rules",
        *(_rule(rule) for rule in RULES),
        "## What is refused",
        _table(("what", "for example", "answer", "instead"), [_refusal(each) for each in REFUSED]),
        _REFUSAL,
        _table(
            ("status", "issue code"), sorted({(str(status), f"`{code}`") for status, code in (*STATUS.values(), *_TOO_LONG)})
        ),
        "## Search parameters",
        _OF_TYPES,
        "### Every type",
        _parameters([*_COLUMNS, *(_row(row) for row in EVERY_TYPE.values())]),
        *(part for kind in PARAMETERS for part in _type(kind)),
        "## Compartments",
        "`GET [compartment]/[id]/[type]` is the search of the type by any of these parameters, and takes all others beside.",
        _table(("compartment", "type", "by any of"), _compartments()),
    ]
    return "\n\n".join(parts) + "\n"


def _curl(example: Example) -> Iterator[str]:
    if example.words:
        yield f"\n# {example.words}"
    headers = [*(['"$KEY"'] if example.key else []), *([f"'{example.header}'"] if example.header else [])]
    url, form = (text.format(patient="p1", encounter="e1").replace("$", r"\$") for text in (example.path, example.form))
    yield " ".join(["curl", *(f"-H {header}" for header in headers), f'"$FHIR/{url}"', *([f'-d "{form}"'] if form else [])])


def _rule(rule: Rule) -> str:
    limits = f"\\\n*Limits:* {_flat(rule.limits)}" if rule.limits else ""
    proofs = ", ".join(f"[{name}](../tests/test_{name}.py)" for name in rule.tests)
    return f"**{rule.number}. {rule.title}.** {_flat(rule.how)}{limits}\\\n*Proved by* {proofs}."


def _refusal(each: Refusal) -> tuple[str, ...]:
    method = "" if each.method == "GET" else f"{each.method} "
    answer = f"{each.status} `{each.code}`"
    example = f"`{method}{each.path.format(patient='p1')}`"
    return each.what, example, f"left out; when strict {answer}" if each.lenient else answer, each.instead


def _flat(text: str) -> str:
    return " ".join(text.split())


def _type(kind: str) -> Iterator[str]:
    yield f"### {kind}"
    if kind in ORDER:
        yield f"Unless sorted, by `{ORDER[kind]}`, the newest first."
    yield _parameters([_row(row) for row in PARAMETERS[kind].values() if row.name not in EVERY_TYPE])
    if kind in ABSENT:
        yield f"Of R4's own, not here: {_listed(ABSENT[kind])}."
    includes, revincludes = (inclusions_of(kind, reverse=reverse) for reverse in (False, True))
    if includes:
        yield f"`_include`: {_listed(includes)}"
    yield f"`_revinclude`: {_listed(revincludes)}"


_COLUMNS = (
    ("`_id`", "token", "`id`", "", "several with commas between"),
    ("`_lastUpdated`", "date", "`meta.lastUpdated`", "", ""),
)


def _parameters(rows: Iterable[Sequence[str]]) -> str:
    return _table(("name", "type", "paths", "modifiers", "targets, system"), rows)


def _row(row: Parameter) -> tuple[str, ...]:
    paths = ", ".join(f"`{path}`" for path in row.paths)
    modifiers = ", ".join(f"`:{name}`" for name in modifiers_of(row))
    return f"`{row.name}`", row.type.value, paths, modifiers, _about(row)


def _about(row: Parameter) -> str:
    if row.type is ParamType.REFERENCE:
        return ", ".join(row.targets) or "any type"
    if row.computed == "sound":
        return "by sound"
    return row.system or ("" if row.system is None else "without a system")


def _compartments() -> Iterator[tuple[str, ...]]:
    for kind, types in COMPARTMENTS.items():
        for searched, params in types.items():
            yield kind, searched, _listed(params)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
