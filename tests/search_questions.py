"""Questions by chance, of everything that a search may say, about what is in the data."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r4.parameters import COMPARTMENTS, PARAMETERS, Parameter, ParamType, parameters_of
from tests.search_data import Stored
from tests.search_model import Model, Pair, at, links, plain, strings, tokens, words_of

PREFIXES = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"]
_COLUMNS = ["_id", "_lastUpdated"]
_MISSING_SHARE, _OR_SHARE = 0.08, 0.25


@dataclass(frozen=True)
class Question:
    """`count` is None where any will do."""

    kind: str
    pairs: list[Pair]
    sort: str = ""
    inclusions: tuple[Pair, ...] = ()
    compartment: str = ""
    total: bool = False

    def url(self, count: int) -> str:
        rest = [("_sort", self.sort)] * bool(self.sort) + [("_total", "accurate")] * self.total + [("_count", str(count))]
        path = f"{self.compartment}/{self.kind}" if self.compartment else self.kind
        return f"/fhir/{path}?{urlencode([*self.pairs, *self.inclusions, *rest], quote_via=quote)}"


def escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\,|$" else letter for letter in text)


class Questioner:
    """Draws from `pick`, and from what the model has: mostly from one resource, so that several parameters find it together."""

    def __init__(self, model: Model, pick: random.Random) -> None:
        self.model, self.pick = model, pick
        self.lucky: Stored | None = None

    def question(self, kind: str) -> Question:
        self.lucky = self.pick.choice(self.model.data[kind]) if self.pick.random() < 0.8 else None
        pairs = [self.pair(kind) for _ in range(self.pick.choice([0, 1, 1, 1, 2, 2, 3]))]
        if self.pick.random() < 0.2:
            name = self.pick.choice(self.dates(kind))  # a window: both bounds of one date
            pairs += [(name, self.value(kind, name)) for _ in range(2)]
        owners = [owner for owner, kinds in COMPARTMENTS.items() if kind in kinds]
        inclusions = [self.inclusion(kind) for _ in range(self.pick.choice([0, 0, 0, 1, 2]))]
        return Question(
            kind,
            pairs,
            self.sort(kind) if self.pick.random() < 0.4 else "",
            tuple(inclusion for inclusion in inclusions if inclusion),
            self.one_of(self.pick.choice(owners)).name if owners and self.pick.random() < 0.1 else "",
            self.pick.random() < 0.2,
        )

    def one_of(self, kind: str) -> Stored:
        return self.pick.choice(self.model.data[kind][:8])

    def dates(self, kind: str) -> list[str]:
        return [name for name in self._of_lucky(kind) if parameters_of(kind)[name].type is ParamType.DATE] + ["_lastUpdated"]

    def pair(self, kind: str, depth: int = 0) -> Pair:
        """A criterion: plain, or at the end of a chain of up to two steps."""
        chance, lucky = self.pick.random(), self.lucky
        if depth < 2 and chance < 0.2 and (forward := self._forward(kind)):
            name, target = self.pick.choice(forward)
            pair = self._beyond(f"{name}.", target, depth)
        elif depth < 2 and chance < 0.35 and (backward := self._backward(kind)):
            source, param = self.pick.choice(backward)
            pair = self._beyond(f"_has:{source}:{param}:", source, depth)
        else:
            pair = self._plain(kind)
        self.lucky = lucky
        return pair

    def _beyond(self, step: str, kind: str, depth: int) -> Pair:
        """The rest of a chain, about what the step leads to, or comes from, where there is any."""
        if self.lucky is not None:
            near = [each for each in self.model.data[kind] if self.model.is_step(self.lucky, step, each)]
            self.lucky = self.pick.choice(near) if near else None
        rest, text = self.pair(kind, depth + 1)
        return f"{step}{rest}", text

    def _plain(self, kind: str) -> Pair:
        name = self.pick.choice([*self._of_lucky(kind), *_COLUMNS])
        if name not in _COLUMNS and self.pick.random() < _MISSING_SHARE and parameters_of(kind)[name].computed != "sound":
            return f"{name}:missing", self.pick.choice(["true", "false"])
        modifier = self.modifier(kind, name)
        values = [
            self.value(kind, name, modifier) for _ in range(self.pick.choice([2, 3]) if self.pick.random() < _OR_SHARE else 1)
        ]
        return f"{name}:{modifier}" if modifier else name, ",".join(values)

    def _of_lucky(self, kind: str) -> list[str]:
        """The parameters by which the lucky one could be found; all of them now and then."""
        rows = parameters_of(kind)
        if self.lucky is None or self.pick.random() < 0.1:
            return list(rows)
        return [name for name, row in rows.items() if at(self.lucky, row)]

    def _forward(self, kind: str) -> list[tuple[str, str]]:
        """Steps of a chain, each with its target's type said."""
        rows = [parameters_of(kind)[name] for name in self._of_lucky(kind)]
        return [
            (f"{row.name}:{target}", target)
            for row in rows
            if row.type is ParamType.REFERENCE
            for target in row.targets
            if target in self.model.data
        ]

    def _backward(self, kind: str) -> list[tuple[str, str]]:
        lucky = self.lucky
        return [
            (source, name)
            for source, table in PARAMETERS.items()
            for name, row in table.items()
            if row.type is ParamType.REFERENCE and kind in (row.targets or [kind])
            if lucky is None or any(lucky.name in links(each, row) for each in self.model.data[source])
        ]

    def modifier(self, kind: str, name: str) -> str:
        if name in _COLUMNS:
            return ""
        row = parameters_of(kind)[name]
        possible = {
            ParamType.TOKEN: ["not", *(["text"] if row.system is None else []), *(["of-type"] if name == "identifier" else [])],
            ParamType.STRING: [] if row.computed else ["exact", "contains", "contains"],
            ParamType.REFERENCE: ["identifier", *row.targets],
        }.get(row.type, [])
        return self.pick.choice(["", "", *possible])

    def value(self, kind: str, name: str, modifier: str = "") -> str:
        if name == "_id":
            return str(self.pick.choice(self.having(kind, lambda each: [each.id])))
        if name == "_lastUpdated":
            moments = self.having(kind, lambda each: [each.updated])
            return self.date([moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") for moment in moments])
        row = parameters_of(kind)[name]
        make: dict[ParamType, Callable[[str, Parameter, str], str]] = {
            ParamType.TOKEN: self.token,
            ParamType.STRING: self.string,
            ParamType.REFERENCE: self.reference,
            ParamType.DATE: lambda kind, row, _: self.date(self.having(kind, lambda each: at(each, row))),
            ParamType.URI: lambda kind, row, _: escaped(
                self.pick.choice([*self.having(kind, lambda each: at(each, row)), "urn:x"])
            ),
            ParamType.QUANTITY: lambda *_: self.quantity(),
        }
        return make[row.type](kind, row, modifier)

    def having(self, kind: str, values: Callable[[Stored], list[Any]]) -> list[Any]:
        if self.lucky is not None and self.lucky.kind == kind and self.pick.random() < 0.9 and (found := values(self.lucky)):
            return found
        return [value for each in self.model.data[kind] for value in values(each)]

    def string(self, kind: str, row: Parameter, modifier: str) -> str:
        """What someone types: a beginning of a text or of its later words, or a part of it, with accents or without."""
        text = self.pick.choice([text for text, _ in self.having(kind, lambda each: strings(each, row))] or ["zz"])
        if modifier == "contains":
            text = text[:200]  # of a long one only the beginning is indexed
            begin = self.pick.randrange(len(text))
            text = text[begin : begin + self.pick.choice([1, 2, 3, 5, 9])]
        elif modifier != "exact" or self.pick.random() < 0.2:
            text = self.pick.choice([text, text[:1], text[:3], text[-4:], *text.replace("-", " ").split()[1:]])
        text = text[:40]  # three long ones were too long for a URL
        return escaped(text if modifier == "exact" else self.pick.choice([text, text.upper(), plain(text)]))

    def token(self, kind: str, row: Parameter, modifier: str) -> str:
        if modifier == "text":
            text = self.pick.choice(self.having(kind, lambda each: words_of(each, row)) or ["zz"])
            return escaped(self.pick.choice([text, text[:3].upper(), text.split(" ")[-1]]))
        if modifier == "of-type":
            parts = ["http://a", "http://b|c"], ["1", "2", "x|y"], ["1", "2", "A"]
            return "|".join(escaped(self.pick.choice(some)) for some in parts)
        system, code = self.pick.choice(self.having(kind, lambda each: tokens(each, row)) or [("", "none")])
        code = escaped(code) or "1"
        if row.system == "":
            return self.pick.choice([code, code, "none"])
        forms = [code, code.upper(), f"|{code}", f"{escaped(system)}|{code}", f"http://none|{code}"]
        return self.pick.choice([*forms, f"{escaped(system)}|"] if system else forms)

    def reference(self, kind: str, row: Parameter, modifier: str) -> str:
        if modifier == "identifier":
            return self.pick.choice(["1", "2", "http://a|1", "|A", "http://a|", escaped("x|y"), f"{escaped('http://b|c')}|1"])
        known = self.having(kind, lambda each: links(each, row))
        name: str = self.pick.choice(
            [link for link in known if not modifier or link.startswith(f"{modifier}/")] or ["Patient/none"]
        )
        if modifier and not name.startswith(f"{modifier}/"):
            name = f"{modifier}/none"
        only = modifier or (len(row.targets) == 1 and name.startswith(f"{row.targets[0]}/"))
        return self.pick.choice([name, name.rpartition("/")[2]]) if only else name

    def date(self, texts: list[Any]) -> str:
        """A date of the data, or near to it, as precise as it may be."""
        moments = [text for value in texts for text in ([value] if isinstance(value, str) else value.values())] or ["2013"]
        text = str(self.pick.choice(moments))
        if len(text) == 10 and self.pick.random() < 0.3 and not text.startswith("9999"):
            text = (datetime.fromisoformat(text) + timedelta(days=self.pick.choice([-1, 1]))).date().isoformat()
        text = text[: self.pick.choice([4, 7, 10, 99, 99])]
        return self.pick.choice(PREFIXES) + text

    def quantity(self) -> str:
        number = self.pick.choice(["5", "1.5", "1.50", "90", "1", "2", "5.0", "0", "1e2"])
        return self.pick.choice(PREFIXES) + number + self.pick.choice(["", "", "|http://u|h", "||min", "||h", "|http://u|"])

    def sort(self, kind: str) -> str:
        names = [*self._of_lucky(kind), *_COLUMNS]
        names = self.pick.sample(names, self.pick.choice([1, 1, 2, min(3, len(names))]))
        return ",".join(self.pick.choice(["", "-"]) + name for name in names)

    def inclusion(self, kind: str) -> Pair | None:
        again = self.pick.choice(["", "", ":iterate"])
        if self.pick.random() < 0.5 and (backward := self._backward(kind)):
            source, param = self.pick.choice(backward)
            return f"_revinclude{again}", f"{source}:{param}{self.pick.choice(['', f':{kind}'])}"
        source = self.pick.choice([kind, "Encounter", "Patient", "Location"]) if again else kind
        references = [row for row in parameters_of(source).values() if row.type is ParamType.REFERENCE]
        if not references:
            return None
        used = [row for row in references if any(at(each, row) for each in self.model.data[source])]
        row = self.pick.choice(used or references)
        param = self.pick.choice([row.name, row.name, "*"])
        target = self.pick.choice(["", *(row.targets if param != "*" else [])])
        return f"_include{again}", f"{source}:{param}:{target}".rstrip(":")


async def prove(strategy: st.SearchStrategy[Any], holds: Callable[[Any], Coroutine[Any, Any, None]], examples: int) -> None:
    """Runs a property of coroutines beside the server's loop: hypothesis itself is synchronous."""
    loop = asyncio.get_running_loop()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def check(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(holds(example), loop).result(60)

    await asyncio.to_thread(check)
