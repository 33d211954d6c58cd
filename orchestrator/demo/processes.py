"""Lets helper processes end when the process that started them is gone, also by kill -9."""

import os
import threading
import time

PARENT_CHECK_EVERY_S = 0.25


def end_with_parent(parent_pid: int) -> None:
    """Starts a thread that ends this process once `parent_pid` is no longer its parent.

    Works wherever processes have parents; Linux's PR_SET_PDEATHSIG would fire at the end of the starting thread.
    """

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(PARENT_CHECK_EVERY_S)
        os._exit(0)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
