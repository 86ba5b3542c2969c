"""A program that ends with whoever started it: ``python serving/tethered.py PID PROGRAM ...``.

Who is killed outright can end nobody, so the kernel is asked to tell the program then (Linux, ``prctl``). It is told
when the thread that started it ends, so programs are started from a thread that lasts.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def words(command: Sequence[str]) -> list[str]:
    """The command that runs `command` tethered to this process."""
    return [sys.executable, "-I", __file__, str(os.getpid()), *command]


def main(given: Sequence[str]) -> None:
    """Become the program; without it where whoever started us is gone already."""
    parent, *command = given
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() == int(parent):  # asked after the kernel knows, so that no moment is missed
        os.execvp(command[0], command)  # noqa: S606 - our own programs


if __name__ == "__main__":
    main(sys.argv[1:])
