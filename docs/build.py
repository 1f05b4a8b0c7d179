"""Writes the pages that are made of tables, or with `--check` says whether the committed ones are current.

python -m docs.build            after a change to the tables of FHIR, to docs/rules.py, or to metrics/catalog.py
python -m docs.build --check    exit code 1 when that was forgotten
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from docs import fhir_page, metrics_page

FOLDER = Path(__file__).parent
PAGES: Mapping[str, Callable[[], str]] = MappingProxyType({"fhir.md": fhir_page.page, "metrics.md": metrics_page.page})


def outdated(folder: Path) -> list[str]:
    """Pages that are missing, or not what the tables make."""
    return [
        name
        for name, page in PAGES.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != page()
    ]


def main(arguments: Sequence[str], folder: Path = FOLDER) -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.build", description="Writes docs/fhir.md and docs/metrics.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is not current")
    if not parser.parse_args(arguments).check:
        for name, page in PAGES.items():
            (folder / name).write_text(page(), encoding="utf-8")
    elif found := outdated(folder):
        sys.exit(f"{', '.join(found)}: not what the tables make\nrun: python -m docs.build")


if __name__ == "__main__":
    main(sys.argv[1:])
