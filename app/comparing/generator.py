"""The load generator in a process of its own, one for a whole comparison: starting Python for each slice would be felt.

`python -m app.comparing.generator` reads pickled (load, requests) and writes a pickled Result, or the text of an error,
until its input ends.
"""

import asyncio
import gc
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from app.comparing.servers import CompareError, child_of
from simulator.load import Load, Result, run
from simulator.load_child import loop_factory

Send = Callable[[Load, Sequence[bytes]], Result]


@contextmanager
def generator() -> Iterator[Send]:
    with child_of("app.comparing.generator") as child:

        def send(load: Load, requests: Sequence[bytes]) -> Result:
            """Raises CompareError where the server cannot be reached, or the generator has ended."""
            assert child.stdin is not None  # noqa: S101  # both are pipes
            assert child.stdout is not None  # noqa: S101
            try:
                pickle.dump((load, requests), child.stdin)
                child.stdin.flush()
                answer = pickle.load(child.stdout)  # noqa: S301  # from the process that we started
            except (OSError, EOFError):
                raise CompareError("the load generator has ended") from None
            if not isinstance(answer, Result):
                raise CompareError(f"no load could be sent: {answer}")
            return answer

        yield send


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        # What is collected while it sends would be the server's latency.
        gc.freeze()
        gc.disable()
        while True:
            try:
                load, requests = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the process that started us
            except EOFError:
                return
            try:
                answer: Result | str = runner.run(run(load, requests))
            except (OSError, ExceptionGroup) as error:
                answer = str(error)
            pickle.dump(answer, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            gc.collect()


if __name__ == "__main__":
    main()
