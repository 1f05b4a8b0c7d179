"""The alerts: sound, each tested at its boundary and explained in the runbook, told to the right receiver, one fault once."""

import asyncio
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from app.cli import cli
from base.config import Config, env_name
from grafana.build import FOLDER
from metrics.accumulators import LATENCY_BOUNDS
from metrics.catalog import Metrics, WorkerMetrics
from tests.alert_rules import RULE_FILES, UNIT_TESTS, alerts, asking_for_alert, expectations, rules
from tests.alertmanager import ALERTMANAGER, alerting, config_for, needs_alertmanager, receiving
from tests.conftest import PROVE
from tests.prometheus import GRAFANA, needs_prometheus, polled, ran

RUNBOOK = "docs/operations.md"
NAMES = sorted({rule.alert for rule in alerts()})


def runbook() -> dict[str, str]:
    """What stands under each heading of the runbook, by its anchor."""
    text = (GRAFANA.parent / RUNBOOK).read_text(encoding="utf-8")
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): said
        for title, said in zip(parts[::2], parts[1::2], strict=True)
    }


@needs_prometheus
async def test_rules_are_sound() -> None:
    """Promtool takes every file of rules."""
    code, said = await ran("promtool", "check", "rules", *map(str, RULE_FILES))
    assert (code, said.count("SUCCESS")) == (0, len(RULE_FILES)), said


@needs_prometheus
async def test_boundaries() -> None:
    """Every unit test of the rules holds: each alert is silent at its boundary and before its time, and rings beyond.

    What takes a week is the long form.
    """
    at_once = asyncio.Semaphore(2)

    async def tested(file: Path) -> tuple[int | None, str]:
        async with at_once:
            return await ran("promtool", "test", "rules", str(file))

    # The long ones first.
    files = sorted(
        (file for file in UNIT_TESTS if PROVE or file.stem != "week"), key=lambda file: file.stem not in ("slo", "week")
    )
    for file, (code, said) in zip(files, await asyncio.gather(*map(tested, files)), strict=True):
        assert code == 0, f"{file.name}: {said}"


@pytest.mark.parametrize("name", NAMES)
def test_is_tested(name: str) -> None:
    """Each alert rings in a unit test, and in one of the same name it does not."""
    own = [expected for expected in expectations() if re.search(rf"\b{name}\b", expected.title)]
    ringing = [expected for expected in own if expected.samples and name in expected.samples + expected.asked]
    silent = [expected for expected in own if not expected.samples]
    assert ringing
    assert silent


@pytest.mark.prove
@needs_prometheus
async def test_words(tmp_path: Path) -> None:
    """Each alert that rings in a unit test says whole sentences: no template fails, and none is of nothing."""
    file = tmp_path / "words.yml"
    for name in NAMES:
        ringing = (each for each in expectations() if each.samples and name in each.title and name in each.samples + each.asked)
        file.write_text(asking_for_alert(next(ringing), name), encoding="utf-8")
        _, said = await ran("promtool", "test", "rules", str(file))
        assert f'alertname="{name}"' in said
        assert not re.search(r"error expanding|<no value>|%!", said), said
        named = {label for rule in alerts() if rule.alert == name for label in re.findall(r"\$labels\.(\w+)", str(rule))}
        assert {label for label in named if f'{label}="' not in said} == set(), said


@pytest.mark.parametrize("name", NAMES)
def test_is_explained(name: str) -> None:
    """Each alert says how grave it is and what is seen, and leads to a section of its own in the runbook."""
    for rule in alerts():
        if rule.alert == name:
            said = rule.annotations
            assert rule.severity in ("critical", "warning", "info", "none")
            assert set(said) == {"summary", "description", "runbook_url"}
            assert re.fullmatch(r"[A-Z][^.]+", said["summary"])
            assert said["description"].endswith(".")
            page, _, anchor = said["runbook_url"].partition("#")
            assert (page, anchor) == (RUNBOOK, name.lower())
            assert len(runbook()[anchor].strip()) > 100


def test_runbook_is_current() -> None:
    """The runbook's table names each alert with its severities, and no section is of an alert that is gone."""
    text = runbook()["when-an-alert-rings"]
    severities: dict[str, set[str]] = {}
    for rule in alerts():
        severities.setdefault(rule.alert, set()).add(rule.severity)
    rows = dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| ([\w, ]+) \|", text, re.MULTILINE))
    assert {name: set(row.split(", ")) for name, row in rows.items()} == severities
    assert {heading for heading in runbook() if heading.startswith("sluice")} == {name.lower() for name in NAMES}


def test_runbook_is_possible() -> None:
    """Every command, setting and panel that the runbook names is there."""
    text = "".join(said for heading, said in runbook().items() if heading.startswith("sluice"))
    settings = {name for name in re.findall(r"SLUICE_[A-Z_]+", text) if not name.endswith("_")}
    assert settings <= {env_name(field.name) for field in fields(Config)}
    for words in {tuple(said.split()) for said in re.findall(r"`sluice ((?:[a-z][a-z-]* ?)+)", text)}:
        if words[0] not in ("api", "report"):  # what sessions are called
            command: Any = get_command(cli)
            for word in words:
                command = command.commands[word]
    titles = {
        title for file in FOLDER.glob("*.json") for title in re.findall(r'"title": "(.+)"', file.read_text(encoding="utf-8"))
    }
    named = {
        title for each in re.findall(r'\*System\*, ((?:"[^"]+"(?: and )?)+)', text) for title in re.findall(r'"([^"]+)"', each)
    }
    assert len(named) > 10
    assert {title for title in named if not any(each.startswith(title) for each in titles)} == set()


def test_of_known_metrics() -> None:
    """Every rule asks for metrics of the catalogue, or for what another rule records, with labels that they have."""
    families: dict[str, tuple[str, ...]] = {}
    for metrics in (Metrics(), WorkerMetrics()):
        metrics.add_process()
        families |= {name: family.labels for name, family in metrics.families.items()}
    recorded = {rule.record for rule in rules()}
    for rule in rules():
        for name, selector in re.findall(r"([a-z_:][\w:]*)(\{[^}]*\})?", strip(rule.expression)):
            if ":" in name:
                assert name in recorded, name
            elif name.startswith(("sluice_", "process_")):
                labels = families[re.sub("_(bucket|sum|count)$", "", name)]
                assert set(re.findall(r"(\w+)\s*=", selector)) <= {*labels, "job", "instance", "le"}, (name, selector)


def strip(expression: str) -> str:
    """Without the texts of labels and without windows, which may look like names."""
    return re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', '""', expression))


def test_two_seconds() -> None:
    """The objective's 2 s is the histogram's next bound, 2.048 s, wherever a rule asks for a bucket of it."""
    assert min(bound for bound in LATENCY_BOUNDS if bound >= 2) == 2.048
    asked = {bound for rule in rules() for bound in re.findall(r'\ble="([^"]+)"', rule.expression)}
    assert asked == {"2.048"}


@needs_alertmanager
async def test_configuration_is_sound(tmp_path: Path) -> None:
    """Amtool takes the committed configuration, and the same with its lines for e-mail."""
    text = ALERTMANAGER.read_text(encoding="utf-8")
    mail = tmp_path / "mail.yml"
    mail.write_text(text.replace("#mail ", ""), encoding="utf-8")
    for file in (ALERTMANAGER, mail):
        code, said = await ran("amtool", "check-config", str(file))
        assert code == 0, said


@needs_alertmanager
async def test_receivers() -> None:
    """What is grave wakes somebody, the rest is told, the switch has a receiver of its own, and helpers are told to nobody."""
    wanted = {"critical": "wake", "warning": "tell", "info": "tell", "none": "nobody"}
    for labels in {(rule.alert, rule.severity) for rule in alerts()}:
        given = [f"{name}={value}" for name, value in zip(("alertname", "severity"), labels, strict=True)]
        code, said = await ran("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", *given)
        receiver = "dead-mans-switch" if labels[0] == "SluiceWatchdog" else wanted[labels[1]]
        assert code == 0
        # Amtool warns beside.
        assert {name for name in ("dead-mans-switch", "wake", "tell", "nobody") if name in said} == {receiver}, labels


def test_consequences_wait() -> None:
    """What follows of a lost database waits at least as long as its alert does, or it would be told first."""
    (away,) = (rule for rule in alerts() if rule.alert == "SluiceDatabaseAway")
    assert away.waits_s == 60
    # Locks are looked at over two minutes anyway.
    following = [rule for rule in alerts() if rule.labels.get("follows") == "database" and rule.alert != "SluiceLockWaits"]
    assert [rule.alert for rule in following if rule.waits_s < away.waits_s] == []


@needs_alertmanager
async def test_one_fault_rings_once(tmp_path: Path) -> None:
    """While PostgreSQL is away all that follows of it is kept quiet; what has other causes rings."""
    told = [{"alertname": rule.alert, **rule.labels} for rule in alerts()]
    told = [labels for labels in told if labels["alertname"] not in ("SluiceNoPrimary", "SluiceErrorsNow", "SluiceSlowNow")]
    follow = {labels["alertname"] for labels in told if labels.get("follows") == "database"}
    assert len(follow) > 15
    async with receiving() as receiver, alerting(tmp_path, config_for(receiver)) as manager:
        await manager.tell(told)
        await receiver.hear("SluiceDatabaseAway")
        await receiver.hear("SluiceDeadlocks")

        async def all_processed() -> dict[str, str]:
            states = await manager.states()
            known = set(states) == {each["alertname"] for each in told}
            return states if known and "unprocessed" not in states.values() else {}

        states = await polled(all_processed)
        quiet = {name for name, state in states.items() if state == "suppressed"}
        assert follow <= quiet
        assert quiet - follow <= {"SluiceMachineMemoryHigh", "SluiceDiskFilling", "SluiceTransactionAge"}
        assert not {each.name for each in receiver.told} & follow
