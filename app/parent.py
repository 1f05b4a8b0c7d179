"""How a process ends when it is told to, and a child when its parent is gone, however that went."""

import os
import signal
import threading


def end_as_by_ctrl_c() -> None:
    """SIGTERM ends this process as Ctrl-C does, until an event loop takes it over: what is open is left as it should be.

    Also where Ctrl-C was ignored, as a script has it of what it puts into the background: the servers' loops hear it anyway.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def follow_parent() -> None:
    """SIGTERM for this process when its parent is gone: its standard input is a pipe whose other end the parent holds.

    Nothing else ends it, so a Ctrl-C in the parent's terminal is the parent's to tell.
    """
    end_as_by_ctrl_c()

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
