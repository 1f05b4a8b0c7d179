"""What a search must find, in plain Python over the resources themselves: https://hl7.org/fhir/R4/search.html.

It shares with the server the table of parameters (names, paths, types), dates' text apart, and how a word sounds; nothing else.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

from r4.parameters import COMPARTMENTS, PARAMETERS, Parameter, ParamType, parameters_of
from r4.texts import sound
from tests.search_data import Json, Stored

Pair = tuple[str, str]
Range = tuple[datetime, datetime]
FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
PARTS = ("text", "family", "given", "prefix", "suffix", "line", "city", "district", "state", "postalCode", "country")
OF_WORDS = ("text", "family", "given")
DEPTH_MAX = 5  # steps of :iterate


# Values.


def elements(resource: Json, path: str) -> list[Any]:
    """What stands at a path, lists walked through; `telecom[system=phone]` takes those that have this value."""
    nodes: list[Any] = [resource]
    for step in path.split("."):
        name, _, wanted = step.removesuffix("]").partition("[")
        nodes = [value for node in nodes if isinstance(node, dict) for value in _listed(node.get(name))]
        if wanted:
            member, _, value = wanted.partition("=")
            nodes = [node for node in nodes if node.get(member) == value]
    return nodes


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def at(stored: Stored, parameter: Parameter) -> list[Any]:
    return [value for path in parameter.paths for value in elements(stored.resource, path)]


def plain(text: str) -> str:
    """Without accents and case."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    return folded.replace("ł", "l")


def span(text: str) -> Range:
    """[lower, upper) of what a date covers."""
    day, _, time = text.partition("T")
    year, month, date = (int(part) for part in [*day.split("-"), "0", "0"][:3])
    lower = datetime(year, month or 1, date or 1, tzinfo=UTC)
    if not time:
        if text in ("9999", "9999-12", "9999-12-31"):
            return lower, FOREVER[1]
        if date:
            return lower, lower + timedelta(days=1)
        ends = (year + 1, 1) if not month or month == 12 else (year, month + 1)
        return lower, datetime(*ends, 1, tzinfo=UTC)
    clock = time.removesuffix("Z").split("+")[0].split("-")[0]
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    fine = len(clock.partition(".")[2])
    width = timedelta(minutes=1) if clock.count(":") == 1 else timedelta(seconds=1)
    return moment, moment + (timedelta(microseconds=10 ** (6 - fine)) if fine else width)


def covered(value: Any) -> Range:
    """What a date or a Period covers."""
    if isinstance(value, str):
        return span(value)
    lower = span(value["start"])[0] if "start" in value else FOREVER[0]
    return lower, span(value["end"])[1] if "end" in value else FOREVER[1]


def tokens(stored: Stored, parameter: Parameter) -> list[tuple[str, str]]:
    """(system, code), each empty where there is none."""
    if parameter.computed == "present":
        there = any(value is not False for value in at(stored, parameter))
        return [(parameter.system or "", "true" if there else "false")]
    found: list[tuple[str, str]] = []
    for value in at(stored, parameter):
        if not isinstance(value, dict):
            found.append((parameter.system or "", str(value).lower() if isinstance(value, bool) else value))
        elif "coding" in value or "text" in value:
            found += [_coded(coding) for coding in value.get("coding", [])]
        else:
            found.append(("", value["value"]) if parameter.system == "" else _coded(value))
    return [coded for coded in found if any(coded)]


def _coded(value: Json) -> tuple[str, str]:
    return value.get("system", ""), value.get("code") or value.get("value", "")


def words_of(stored: Stored, parameter: Parameter) -> list[str]:
    """For `:text`."""
    found = []
    for value in at(stored, parameter):
        told = [value, *value.get("coding", []), value.get("type", {})] if isinstance(value, dict) else []
        found += [each[member] for each in told for member in ("display", "text") if member in each]
    return found


def strings(stored: Stored, parameter: Parameter) -> list[tuple[str, bool]]:
    """(text, whether it falls into words)."""
    found = []
    for value in at(stored, parameter):
        if isinstance(value, str):
            found.append((value, parameter.name in OF_WORDS))
        else:
            found += [(text, part in OF_WORDS) for part in PARTS for text in _listed(value.get(part))]
    return found


def sounds(stored: Stored, parameter: Parameter) -> set[str]:
    found: set[str] = set()
    for value in at(stored, parameter):
        texts = (
            [value] if isinstance(value, str) else [t for part in ("family", "given", "text") for t in _listed(value.get(part))]
        )
        for text in texts:
            found |= {sound(text), *sound(text).split(" ")}
    return found - {""}


def links(stored: Stored, parameter: Parameter) -> list[str]:
    """`Type/id` or a URL of what the parameter leads to."""
    found = [str(value.get("reference", "")) for value in at(stored, parameter)]
    return [name for name in found if _leads(parameter, name)]


def _leads(parameter: Parameter, name: str) -> bool:
    return bool(name) and (":" in name or not parameter.targets or name.partition("/")[0] in parameter.targets)


def is_there(stored: Stored, parameter: Parameter) -> bool:
    """For `:missing`: that the element is there, and is what the parameter's expression takes."""
    found = at(stored, parameter)
    if parameter.type is ParamType.REFERENCE:
        found = [value for value in found if "reference" not in value or _leads(parameter, value["reference"])]
    return bool(found)


# Comparing.


def alternatives(text: str, separator: str = ",") -> list[str]:
    """Split where no backslash stands before."""
    parts, escaped = [""], False
    for letter in text:
        if letter == separator and not escaped:
            parts.append("")
            continue
        parts[-1] += letter
        escaped = letter == "\\" and not escaped
    return parts


def literal(text: str) -> str:
    """Without the backslashes that escape."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


def token_matches(codings: Iterable[tuple[str, str]], text: str) -> bool:
    halves = [literal(half) for half in alternatives(text, "|")]
    if len(halves) == 1:
        return any(code == halves[0] for _, code in codings)
    return any(system == halves[0] and (not halves[1] or code == halves[1]) for system, code in codings)


def bare_token_matches(parameter: Parameter, codings: Iterable[tuple[str, str]], text: str) -> bool:
    """Of what bears no system, though the element's binding may imply one: `|male` is male."""
    system, _, code = text.rpartition("|")
    return system in ("", parameter.system) and any(had == literal(code) or not code for _, had in codings)


def string_matches(texts: Iterable[tuple[str, bool]], value: str, modifier: str) -> bool:
    if modifier == "exact":
        return any(text == value for text, _ in texts)
    if modifier == "contains":
        return any(plain(value) in plain(text) for text, _ in texts)
    return any(
        each.startswith(plain(value))
        for text, of_words in texts
        for each in (plain(text), *(plain(text).replace("-", " ").split()[1:] if of_words else []))
    )


def date_matches(have: Range, text: str) -> bool:
    """https://hl7.org/fhir/R4/search.html#prefix."""
    prefix, rest = (text[:2], text[2:]) if text[:1].isalpha() else ("eq", text)
    (low, high), (lower, upper) = have, span(rest)
    margin = max((upper - lower) / 10, timedelta(days=1))
    begin, end = lower - min(margin, lower - FOREVER[0]), upper + min(margin, FOREVER[1] - upper)
    contained = lower <= low and high <= upper
    return {
        "eq": contained,
        "ne": not contained,
        "gt": high > upper,
        "ge": high > lower,
        "lt": low < lower,
        "le": low < upper,
        "sa": low >= upper,
        "eb": high <= lower,
        "ap": low < end and high > begin,
    }[prefix]


def quantity_matches(value: Json, text: str) -> bool:
    """A number is as precise as it is written: 5 is from 4.5 to 5.5, 5.0 from 4.95 to 5.05."""
    number, *unit = [literal(part) for part in alternatives(text, "|")]
    prefix, number = (number[:2], number[2:]) if number[:1].isalpha() else ("eq", number)
    have, wanted = Decimal(str(value["value"])), Decimal(number)
    half = abs(wanted) / 10 if prefix == "ap" else Decimal(5).scaleb(int(wanted.as_tuple().exponent) - 1)
    near = wanted - half <= have < wanted + half
    compared = {
        "eq": near, "ap": near, "ne": not near, "gt": have > wanted, "sa": have > wanted, "lt": have < wanted,
        "eb": have < wanted, "ge": have >= wanted, "le": have <= wanted,
    }[prefix]  # fmt: skip
    if not unit:
        return compared
    system, code = unit
    known = (value.get("code"), value.get("unit"))
    return compared and (not system or value.get("system") == system) and (not code or code in known)


# Searching.


class Model:
    def __init__(self, data: dict[str, list[Stored]]) -> None:
        self.data = data

    @cached_property
    def by_name(self) -> dict[str, Stored]:
        return {each.name: each for many in self.data.values() for each in many}

    def found(self, kind: str, pairs: Iterable[Pair], *, sort: str = "", compartment: str = "") -> list[str]:
        """The ids that match, in the order of the list."""
        meant = [(name, value) for name, value in pairs if value]
        matches = [each for each in self.data[kind] if all(self.meets(each, name, value) for name, value in meant)]
        if compartment:
            params = [PARAMETERS[kind][name] for name in COMPARTMENTS[compartment.partition("/")[0]][kind]]
            matches = [each for each in matches if any(compartment in links(each, parameter) for parameter in params)]
        return [each.id for each in in_order(matches, sort)]

    def meets(self, stored: Stored, name: str, text: str) -> bool:
        """One parameter of a question."""
        if name.startswith("_has:"):
            _, source, param, rest = name.split(":", 3)
            parameter = PARAMETERS[source][param]
            return any(stored.name in links(other, parameter) and self.meets(other, rest, text) for other in self.data[source])
        first, dot, rest = name.partition(".")
        if dot:
            param, _, kind = first.partition(":")
            parameter = parameters_of(stored.kind)[param]
            known = [self.by_name[link] for link in links(stored, parameter) if link in self.by_name]
            return any(each.kind == (kind or each.kind) and self.meets(each, rest, text) for each in known)
        param, _, modifier = name.partition(":")
        if modifier == "missing":
            return is_there(stored, parameters_of(stored.kind)[param]) == (text == "false")
        matches = any(one_matches(stored, param, modifier, part) for part in alternatives(text) if part)
        return matches != (modifier == "not")

    def is_step(self, here: Stored, step: str, there: Stored) -> bool:
        """Whether `param:Type.` leads from here to there, or `_has:Type:param:` from there to here."""
        if step.startswith("_has:"):
            return here.name in links(there, PARAMETERS[there.kind][step.split(":")[2]])
        return there.name in links(here, PARAMETERS[here.kind][step.partition(":")[0]])

    def included(self, kind: str, shown: Iterable[str], inclusions: Iterable[Pair]) -> set[str]:
        """`Type/id` of what a page of matches brings along."""
        rules = [(name.partition(":")[0], name.endswith(":iterate"), value) for name, value in inclusions]
        matches = {f"{kind}/{each}" for each in shown}
        reached = {name for origin in matches for rule, _, value in rules for name in self._step(origin, rule, value)}
        latest = reached
        for _ in range(DEPTH_MAX - 1):
            latest = {
                name for origin in latest for rule, again, value in rules if again for name in self._step(origin, rule, value)
            }
            reached = reached | latest
        return {name for name in reached - matches if name in self.by_name}

    def _step(self, origin: str, rule: str, value: str) -> Iterator[str]:
        source, param, target = (*value.split(":"), "")[:3]
        table = PARAMETERS[source] if origin in self.by_name else {}
        for parameter in [row for row in table.values() if row.type is ParamType.REFERENCE and param in ("*", row.name)]:
            if rule == "_include" and origin.startswith(f"{source}/"):
                yield from (name for name in links(self.by_name[origin], parameter) if name.startswith(target))
            if rule == "_revinclude" and origin.startswith(target):
                yield from (other.name for other in self.data[source] if origin in links(other, parameter))


def one_matches(stored: Stored, param: str, modifier: str, text: str) -> bool:  # noqa: PLR0911  # one a kind of parameter
    """One alternative of one parameter."""
    if param == "_id":
        return stored.id == text
    if param == "_lastUpdated":
        return date_matches((stored.updated, stored.updated + timedelta(milliseconds=1)), text)
    parameter = parameters_of(stored.kind)[param]
    if parameter.type is ParamType.REFERENCE:
        return reference_matches(stored, parameter, modifier, text)
    if parameter.type is ParamType.TOKEN:
        return token_of_kind_matches(stored, parameter, modifier, text)
    if parameter.type is ParamType.DATE:
        return any(date_matches(covered(value), text) for value in at(stored, parameter))
    if parameter.type is ParamType.QUANTITY:
        return any(quantity_matches(value, text) for value in at(stored, parameter))
    if parameter.type is ParamType.URI:
        return literal(text) in at(stored, parameter)
    if parameter.computed == "sound":
        return sound(literal(text)) in sounds(stored, parameter)
    return string_matches(strings(stored, parameter), literal(text), modifier)


def token_of_kind_matches(stored: Stored, parameter: Parameter, modifier: str, text: str) -> bool:
    if modifier == "text":
        return string_matches([(words, True) for words in words_of(stored, parameter)], literal(text), "")
    if modifier == "of-type":
        system, code, value = (literal(part) for part in alternatives(text, "|"))
        typed = [
            (_coded(coding), each.get("value")) for each in at(stored, parameter) for coding in elements(each, "type.coding")
        ]
        return ((system, code), value) in typed
    if parameter.system is not None:
        return bare_token_matches(parameter, tokens(stored, parameter), text)
    return token_matches(tokens(stored, parameter), text)


def reference_matches(stored: Stored, parameter: Parameter, modifier: str, text: str) -> bool:
    if modifier == "identifier":
        known = [value for value in at(stored, parameter) if "reference" not in value or _leads(parameter, value["reference"])]
        return token_matches([_coded(value["identifier"]) for value in known if "identifier" in value], text)
    kind = modifier or (parameter.targets[0] if len(parameter.targets) == 1 else "")
    return (text if "/" in text else f"{kind}/{text}") in links(stored, parameter)


# Sorting.


def in_order(matches: list[Stored], sort: str) -> list[Stored]:
    """What has no value comes last, whichever way; equals are in the list's order, turned round if the last key descends."""
    keys = _deciding(sort)
    ordered = sorted(matches, key=lambda each: each.id)
    columns = {"_id", "_lastUpdated"} & {key.removeprefix("-") for key in keys}
    is_default = keys in ([], ["-date"], ["-date", "_id"]) and all(each.kind == "Encounter" for each in matches)
    if is_default or not columns:
        ordered = sorted(ordered, key=_newest_first)
    if is_default:
        return ordered
    if keys and keys[-1].startswith("-"):
        ordered.reverse()
    for key in reversed(keys):
        param, down = key.removeprefix("-"), key.startswith("-")
        keyed = [(sort_key(each, param, down=down), each) for each in ordered]
        # sorted() leaves equals as they were, also when it is reversed.
        have = sorted((pair for pair in keyed if pair[0] is not None), key=lambda pair: pair[0], reverse=down)
        ordered = [each for _, each in have] + [each for key_of, each in keyed if key_of is None]
    return ordered


def _deciding(sort: str) -> list[str]:
    """The keys up to the id, after which no two are equal."""
    keys = sort.split(",") if sort else []
    ends = next((place for place, key in enumerate(keys, 1) if key in ("_id", "-_id")), len(keys))
    return keys[:ends]


def _newest_first(stored: Stored) -> float:
    """The order of Encounters where none is asked for: of what has no start nobody knows when it was. Others have none."""
    if stored.kind != "Encounter":
        return 0.0
    start = stored.resource.get("period", {}).get("start")
    return -span(start)[0].timestamp() if start else float("inf")


def sort_key(stored: Stored, param: str, *, down: bool) -> Any:
    """Of several values the least counts when the key ascends, and the greatest when it descends."""
    if param in ("_id", "_lastUpdated"):
        return stored.id if param == "_id" else stored.updated
    parameter = parameters_of(stored.kind)[param]
    values_of: dict[ParamType, Callable[[], list[Any]]] = {
        ParamType.STRING: lambda: [plain(text) for text, _ in strings(stored, parameter)],
        ParamType.TOKEN: lambda: [code for _, code in tokens(stored, parameter)],
        ParamType.URI: lambda: at(stored, parameter),
        ParamType.DATE: lambda: [covered(value)[0] for value in at(stored, parameter)],
        ParamType.QUANTITY: lambda: [Decimal(str(value["value"])) for value in at(stored, parameter)],
        ParamType.REFERENCE: lambda: [f"/{name}" if ":" in name else name for name in links(stored, parameter)],
    }
    values = list(sounds(stored, parameter)) if parameter.computed == "sound" else values_of[parameter.type]()
    if not values:
        return None
    return max(values) if down else min(values)
