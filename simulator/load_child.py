"""The generator's own process: a pickled (load, requests, cpu) comes in, a pickled Result goes out."""

import asyncio
import gc
import os
import pickle
import sys
from typing import Any

from simulator.load import Load, Requests, Result, run


def main() -> None:
    load, requests, cpu = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the process that started us
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    # What is collected here would be the server's latency.
    gc.freeze()
    gc.disable()
    sys.stdout.buffer.write(pickle.dumps(_send(load, requests)))


def _send(load: Load, requests: Requests) -> Result:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run(load, requests))


def loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
