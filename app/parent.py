"""A child process that ends when its parent is gone, however that went."""

import os
import signal
import threading


def follow_parent() -> None:
    """SIGTERM for this process when its parent is gone: its standard input is a pipe whose other end the parent holds.

    Nothing else ends it, so a Ctrl-C in the parent's terminal is the parent's to tell.
    """
    # As Ctrl-C, until an event loop takes the signal over: what is open is left as it should be.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
