"""Writes docs/fhir.md, or with `--check` says whether the committed one is current.

python -m docs.build            after a change to the tables of FHIR, or to docs/rules.py
python -m docs.build --check    exit code 1 when that was forgotten
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from docs.fhir_page import page

FILE = Path(__file__).parent / "fhir.md"


def is_current(file: Path) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == page()


def main(arguments: Sequence[str], file: Path = FILE) -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.build", description="Writes docs/fhir.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the page is not current")
    if not parser.parse_args(arguments).check:
        file.write_text(page(), encoding="utf-8")
    elif not is_current(file):
        sys.exit(f"{file.name} is not what the tables make\nrun: python -m docs.build")


if __name__ == "__main__":
    main(sys.argv[1:])
