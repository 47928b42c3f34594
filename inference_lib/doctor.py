"""Which frameworks work on this machine, and what would mend the others."""

import itertools
import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from textwrap import fill, shorten

from inference_lib.backends import BACKENDS
from inference_lib.records.machine import this_machine
from inference_lib.seam import DEVICE_KINDS, MODELS, Availability, Backend, Workload
from inference_lib.support.interrupts import uninterrupted

WIDTH = 100
"""Columns of a terminal that every line fits in."""

LIMIT_S = 120.0
"""The longest wait for a framework to be imported."""


Found = dict[str, Availability]
"""What a backend says of this machine, by kind of device: usable there, it has a reason if it computes nothing."""


def report(verbose: bool = False) -> str:
    """Return the machine and a line a backend: its version, where it works, the beginning of why it does not.

    ``verbose`` tells the whole reason for every kind of device, and what would mend it, in notes below.
    """
    found, machine = _ask_all(), this_machine()
    lines = [
        f"GPU     {machine.gpu or 'none'}" + (f", driver {machine.driver}" if machine.driver else ""),
        f"CPU     {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB",
        f"Python  {machine.python}, torch {machine.packages.get('torch', 'missing')}",
        "",
        _row("backend", "version", DEVICE_KINDS, "" if verbose else "why not"),
    ]
    here = [kind for kind in DEVICE_KINDS if kind == "cpu" or machine.gpu]
    notes: dict[str, int] = {}
    for name, by_kind in found.items():
        version = next((each.version for each in by_kind.values() if each.version), "-")
        if verbose:
            texts = ["; ".join(filter(None, (each.reason, each.remedy))) for each in by_kind.values()]
            works = [f"no [{notes.setdefault(text, len(notes) + 1)}]" if text else "yes" for text in texts]
            lines.append(_row(name, version, works))
        else:
            why = next((by_kind[kind].reason for kind in here if by_kind[kind].reason), "")
            lines.append(_row(name, version, ["no" if each.reason else "yes" for each in by_kind.values()], why))
    wrapped = [fill(f"[{number}] {text}", WIDTH, subsequent_indent="    ") for text, number in notes.items()]
    return "\n".join([*lines, "", *(wrapped if verbose else ["What would mend them: doctor --verbose"])])


def _row(backend: str, version: str, works: Sequence[str], why: str = "") -> str:
    line = f"{backend:<23}{shorten(version, 14, placeholder='...'):<15}" + "".join(f"{each:<8}" for each in works)
    return (line + shorten(why, WIDTH - len(line), placeholder=" ...")).rstrip()


def _ask_all() -> dict[str, Found]:
    """Ask every backend. Their imports take seconds, so those of different frameworks run side by side.

    They do so in children of this process, which have PyTorch already; one that dies costs its own lines alone.
    """
    groups = [list(group) for _, group in itertools.groupby(BACKENDS, key=lambda name: name.split("-")[0])]
    asked = [_start(names) for names in reversed(groups)]  # TVM, the last, takes the longest
    found = {name: each for names, answers in asked for name, each in _answer(names, answers).items()}
    return {name: found[name] for name in BACKENDS}


def _start(names: list[str]) -> tuple[list[str], Connection]:
    answers, writer = multiprocessing.Pipe(duplex=False)
    with uninterrupted():  # what is raised in a callback of a fork is lost
        multiprocessing.get_context("fork").Process(target=_ask, args=(names, writer), daemon=True).start()
    writer.close()
    return names, answers


def _ask(names: list[str], writer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its parent, which says so
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    writer.send({name: _ask_one(BACKENDS[name]) for name in names})


def _answer(names: list[str], answers: Connection) -> dict[str, Found]:
    reason = f"no answer in {LIMIT_S:.0f} s"
    try:
        if answers.poll(LIMIT_S):
            return answers.recv()
    except EOFError:
        reason = "the process that imported it died"
    return dict.fromkeys(names, dict.fromkeys(DEVICE_KINDS, Availability(usable=False, reason=reason)))


def _ask_one(backend: Backend) -> Found:
    found = {kind: backend.availability(kind) for kind in DEVICE_KINDS}
    for kind, each in found.items():
        if each.usable:
            workload = Workload(next(iter(MODELS)), 1, "fp32", kind)
            found[kind] = replace(each, reason=backend.supports(workload).reason)
    return found
