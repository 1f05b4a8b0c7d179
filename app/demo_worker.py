"""The demo's worker, a process of its own: `python -m app.demo_worker`, started by app/demo_claims.py."""

import sys

from app.cli_tools import settings
from app.parent import follow_parent


def _main() -> None:
    follow_parent()
    try:
        from app.worker import work

        work(settings())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    _main()
