"""Writes the dashboards' JSON, or with `--check` says whether the committed one is current.

python -m grafana.build            after a change to the dashboards' code
python -m grafana.build --check    exit code 1 when that was forgotten
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import channel_against_direct, ingestion, reports, system, tenants

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS: Mapping[str, Callable[[], Dashboard]] = MappingProxyType(
    {
        "channel-against-direct": channel_against_direct.dashboard,
        "tenants": tenants.dashboard,
        "system": system.dashboard,
        "ingestion": ingestion.dashboard,
        "reports": reports.dashboard,
    }
)


def rendered(dashboard: Dashboard) -> str:
    """The same bytes for the same code: keys sorted, one value a line, so that a change reads well as a diff."""
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in DASHBOARDS.items():
        (folder / f"{name}.json").write_text(rendered(dashboard()), encoding="utf-8")


def faults(folder: Path) -> list[str]:
    """What is missing, differs from the code, or is no code's."""
    found = []
    for name, dashboard in DASHBOARDS.items():
        file = folder / f"{name}.json"
        if not file.is_file():
            found.append(f"{file.name} is missing")
        elif file.read_text(encoding="utf-8") != rendered(dashboard()):
            found.append(f"{file.name} is not what the code makes")
    strangers = sorted(file.name for file in folder.glob("*.json") if file.stem not in DASHBOARDS)
    return [*found, *(f"{name} is made by no code" for name in strangers)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m grafana.build", description="Writes the dashboards' JSON.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the JSON is not current")
    if not parser.parse_args(arguments).check:
        write(FOLDER)
    elif found := faults(FOLDER):
        sys.exit("\n".join([*found, "run: python -m grafana.build"]))


if __name__ == "__main__":
    main(sys.argv[1:])
