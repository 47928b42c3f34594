"""A server in a process of its own: started as a reader starts it, waited for, and ended."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

from inference_lib.support.errors import CourseError, cause_line

START_S = 300.0
END_S = 60.0
ASK_EVERY_S = 0.2

HELD = "INFERENCE_SERVER_IS_HELD"
"""Set for a server that was started by a process of ours: its standard input is a pipe which that holds open."""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def running_server(url: str, arguments: Sequence[str], start_s: float = START_S) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m inference_lib serve`` with ``arguments`` while the context lasts; it is ready inside.

    Raises:
        CourseError: somebody else answers at ``url``, it ended, or it was not ready in time.

    """
    address = urlsplit(url)
    with suppress(OSError), socket.create_connection((address.hostname, address.port), ASK_EVERY_S):
        raise CourseError(
            f"somebody listens at {url} already, and would be taken for it; end that, or use another port"
        )
    with (
        tempfile.TemporaryFile("w+") as said,  # a pipe that nobody reads would stop a server that says much
        _held(arguments, stdout=said, stderr=said) as process,
    ):
        try:
            _wait_until_ready(url, process, said, start_s)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            with suppress(ProcessLookupError):  # what it started, in its session; as a rule, nobody is left
                os.killpg(process.pid, signal.SIGKILL)


def at_a_terminal() -> bool:
    """Whether Ctrl-C would reach this process, a server, and all that it starts: a worker so ended answers nobody."""
    return HELD not in os.environ and sys.stdin is not None and sys.stdin.isatty()


def out_of_its_reach(arguments: Sequence[str]) -> int:
    """Serve with ``arguments`` in a session of its own, and return the status; Ctrl-C ends it as SIGTERM does."""
    with _held(arguments) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.terminate())
        return server.wait()


def _held(arguments: Sequence[str], **output: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "inference_lib", "serve", *arguments]
    environment = os.environ | {HELD: "1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, text=True, start_new_session=True, env=environment, **output
    )


def end_with_the_holder() -> None:
    """Let this process, a server, end as by SIGTERM when the process of ours that started it is gone.

    A kernel that is restarted runs no ``finally``: its servers would keep their port, and the GPU's memory, for good.
    """

    def watch() -> None:
        while os.read(0, 1):  # until the other end is closed; a reader of Python's own would hold up the exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.pop(HELD, None):
        threading.Thread(target=watch, daemon=True).start()


def _wait_until_ready(url: str, process: "subprocess.Popen[str]", said: IO[str], limit_s: float) -> None:
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        if process.poll() is not None:
            said.seek(0)
            raise CourseError(f"the server ended at once: {cause_line(said.read())}")
        if answers(f"{url}/ready"):
            return
        time.sleep(ASK_EVERY_S)
    raise CourseError(f"the server was not ready within {limit_s:.0f} s; start it by hand and read what it says")


def answers(url: str) -> bool:
    """Whether ``url`` answers with status 200 within two seconds; no proxy is asked, nor is one under load."""
    try:
        with DIRECT.open(url, timeout=2.0) as response:
            return response.status == 200
    except OSError:
        return False
