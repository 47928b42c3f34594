"""A simulated host: rivals take turns on it, and it disturbs them as the real ones were seen to."""

from collections.abc import Callable

import numpy as np

from inference_lib.records.record import Invocation, Record
from inference_lib.records.statistics import quantile_sketch

HOST_LUCK, HOST_DRIFT, OWN_LUCK = 0.06, 0.03, 0.015
"""Standard deviations of logarithms: what an invocation's rivals share, what a round's share, and what each rival has
for itself in an invocation (its addresses, its kernels)."""

ITERATION_NOISE, CORRELATION = 0.05, 0.9
"""Of single inferences, each of which remembers so much of the one before."""

ITERATIONS = 20


def drift(random: np.random.Generator, rounds: int) -> np.ndarray:
    """Return the host's pace in each round: a walk that returns, as a shared machine's does."""
    steps, level, found = random.normal(size=rounds), 0.0, []
    for step in steps:
        level = 0.8 * level + 0.6 * HOST_DRIFT * step
        found.append(level)
    return np.array(found)


def turn(random: np.random.Generator, centre: float) -> np.ndarray:
    """Return the inferences of one turn, ms: correlated, with a tail of slow ones."""
    noise, level = [], random.normal()
    for step in random.normal(size=ITERATIONS):
        level = CORRELATION * level + (1 - CORRELATION**2) ** 0.5 * step
        noise.append(level)
    slow = np.where(random.random(ITERATIONS) < 0.05, random.exponential(0.3, ITERATIONS), 0.0)
    return centre * np.exp(ITERATION_NOISE * np.array(noise) + slow)


def race(true_ms: dict[str, float], seed: int, invocations: int = 3, rounds: int = 20) -> dict[str, list[Invocation]]:
    """Return what rivals with these true times would be measured to take, in turns on the simulated host."""
    random = np.random.default_rng(seed)
    found: dict[str, list[Invocation]] = {name: [] for name in true_ms}
    for number in range(1, invocations + 1):
        shared = HOST_LUCK * random.normal() + drift(random, rounds)
        for name, milliseconds in true_ms.items():
            own = OWN_LUCK * random.normal()
            turns = [turn(random, milliseconds * np.exp(pace + own)) for pace in shared]
            medians = [float(np.median(samples)) for samples in turns]
            found[name].append(
                Invocation(
                    number=number,
                    iterations=rounds * ITERATIONS,
                    end_to_end_ms=medians,
                    quantiles=quantile_sketch(np.concatenate(turns)),
                )
            )
    return found


def records(
    make_record: Callable[..., Record], true_ms: dict[str, float], seed: int, **changed: object
) -> list[Record]:
    """Return a record for each rival of one simulated set on a CPU."""
    return [
        make_record(backend=name, device="cpu", invocations=measured, **changed)
        for name, measured in race(true_ms, seed).items()
    ]
