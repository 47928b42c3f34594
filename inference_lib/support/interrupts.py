"""Ctrl-C and SIGTERM, put off until what must not be cut in two is done."""

import atexit
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

AGAIN_S = 0.05

atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # nobody answers any more: the alarm would kill the process


def after_imports(number: int, handle: Handler) -> None:
    """Let ``handle`` answer the signal ``number``, which may raise, as soon as nothing is being imported.

    An exception that a signal raises in Python code called by C++ aborts the process where the C++ expects none, and
    PyTorch's calls some while it is imported.
    """

    def answer(_: int, frame: FrameType | None) -> None:
        if _importing(frame):
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))  # to whoever answers it then
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            handle(number, frame)

    signal.signal(number, answer)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


@contextmanager
def uninterrupted(end: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until what is done here is done; ``end`` is called, which may make that soon.

    A process that is only half told what to do would end with a traceback. `timeout` sends its signal twice.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        end()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
