"""What batch schedulers send before the end of a job behaves as Ctrl-C: work is kept, one sentence, workers end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGTERM of a scheduler or a container, SIGHUP of a closed terminal, SIGUSR1 of Slurm's `--signal`.
NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1")


class Terminated(KeyboardInterrupt):
    """A signal asked this process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def terminable() -> Iterator[None]:
    """Within, raise `Terminated` in the main thread where one of these signals comes; a second one changes nothing.

    A signal that the caller had this process ignore, as `nohup` does SIGHUP, stays ignored. In another thread than the
    main one, which gets no signals, nothing changes.
    """
    come: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if not come:
            come.append(number)
            raise Terminated(number)

    before = {}
    for name in NAMES if threading.current_thread() is threading.main_thread() else ():
        number = getattr(signal, name, None)  # Windows has SIGTERM alone
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
