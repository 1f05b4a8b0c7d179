"""The committed rules and their unit tests as text that is read by its shape: nothing here depends on a reader of YAML."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.prometheus import GRAFANA

ALERTS = GRAFANA / "alerts"
RULE_FILES = sorted((ALERTS / "rules").glob("*.yml"))
UNIT_TESTS = sorted((ALERTS / "tests").glob("*.yml"))

_EXPRESSION = re.compile(r"^ +expr: (?:\|\n)?(.*?)(?=^ {8}\w+:|\Z)", re.MULTILINE | re.DOTALL)
_ASKED = re.compile(r"^ +- \{expr: (?:(?:&\w+ )?'([^']*)'|\*(\w+)), eval_time: (\w+), exp_samples: \[(.*)\]\}$", re.MULTILINE)
_NAMED = re.compile(r"&(\w+) '([^']*)'")


@dataclass(frozen=True)
class Rule:
    """A recording rule (`record` is its series) or an alert; `labels` and `annotations` of an alert alone."""

    record: str
    alert: str
    expression: str
    labels: dict[str, str]
    annotations: dict[str, str]
    waits_s: int

    @property
    def severity(self) -> str:
        return self.labels["severity"]


@dataclass(frozen=True)
class Expectation:
    """What a unit test expects at a time: which alerts ring. `test` is its whole text."""

    file: Path
    test: str
    title: str
    asked: str
    at: str
    samples: str


def rules() -> list[Rule]:
    """Of all files, in their order."""
    return [rule for file in RULE_FILES for rule in _rules_in(file.read_text(encoding="utf-8"))]


def alerts() -> list[Rule]:
    return [rule for rule in rules() if rule.alert]


def _rules_in(text: str) -> Iterator[Rule]:
    text = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^  - name: .*\n    rules:\n", "", text, flags=re.MULTILINE)
    shared = dict(re.findall(r"annotations: &(\w+)\n((?: {10}.*\n)+)", text))
    for part in re.split(r"^ {6}- (?=alert:|record:)", text, flags=re.MULTILINE)[1:]:
        kind, _, name = part.splitlines()[0].partition(": ")
        found = _EXPRESSION.search(part)
        assert found, name
        labels = re.search(r"^ {8}labels: \{(.*)\}$", part, re.MULTILINE)
        same = re.search(r"annotations: \*(\w+)", part)
        said = shared[same[1]] if same else part.partition("annotations:")[2]
        yield Rule(
            name if kind == "record" else "",
            name if kind == "alert" else "",
            found[1].strip(),
            dict(pair.split(": ") for pair in labels[1].split(", ")) if labels else {},
            {key: value.strip("'") for key, value in re.findall(r"^ {10}(\w+): (.*)$", said, re.MULTILINE)},
            _seconds(re.search(r"^ {8}for: (\d+)([smh])$", part, re.MULTILINE)),
        )


def _seconds(waits: re.Match[str] | None) -> int:
    return int(waits[1]) * {"s": 1, "m": 60, "h": 3600}[waits[2]] if waits else 0


def expectations() -> Iterator[Expectation]:
    """Of all unit tests that ask for series; `asked` is the expression itself where a name stands for it."""
    for file in UNIT_TESTS:
        text = file.read_text(encoding="utf-8")
        named = dict(_NAMED.findall(text))
        for test in re.split(r"^(?=  - name: )", text, flags=re.MULTILINE)[1:]:
            title = test.partition("\n")[0].removeprefix("  - name: ")
            for said, name, at, samples in _ASKED.findall(test):
                yield Expectation(file, test, title, said or named[name], at, samples)


def asking_for_alert(expected: Expectation, alert: str) -> str:
    """The unit test of an expectation, alone, and expecting of the alert nothing: promtool then says how it rings."""
    head = expected.file.read_text(encoding="utf-8").partition("tests:\n")[0].replace("../rules", str(ALERTS / "rules"))
    series = expected.test.partition("    promql_expr_test:")[0].partition("    alert_rule_test:")[0]
    asked = f"      - {{alertname: {alert}, eval_time: {expected.at}, exp_alerts: []}}\n"
    return f"{head}tests:\n{series}    alert_rule_test:\n{asked}"
