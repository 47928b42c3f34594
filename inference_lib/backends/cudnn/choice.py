"""Which tensors of a network in eight bits are better kept in 16: those whose readers are faster then.

Nothing is converted on the way: an operation writes its result in the type in which the next one multiplies, so a
change of type costs what it adds to the operations on both sides, and is timed there.
"""

import math
from collections.abc import Iterable

from inference_lib.backends.cudnn.arithmetic import LARGEST, Network
from inference_lib.backends.cudnn.compiler import Kernel, Spec
from inference_lib.backends.cudnn.execution import fastest_forms, is_cudnn, specs_of
from inference_lib.backends.cudnn.plans import Forms, Timed
from inference_lib.backends.cudnn.search import Search
from inference_lib.support.errors import CourseError

WORTH_WIDENING = 0.03
"""A tensor is not tried if its readers take a smaller part of the network's time: what that could win is noise."""


def fastest_types(network: Network, batch: int, search: Search) -> tuple[Network, dict[Spec, Timed]]:
    """Return ``network`` with those tensors widened to FP16 that make it faster, and the plans that were timed.

    All kernels compete for ``network`` as it is; for each tensor that is widened, the heuristic's and those that have
    won so far: a search of all for each of them would take minutes. Tensor cores multiply half as many numbers of 16
    bits, so a tensor is not tried if each of its readers does more than half of what the best one does in eight, nor if
    they take no time to speak of.

    Raises:
        CourseError: cuDNN has no plan for a convolution of ``network`` as it is.

    """
    timed: dict[Spec, Timed] = {}
    asked: set[Forms] = set()

    def find(networks: Iterable[Network], among: frozenset[Kernel] | None = None) -> None:
        new = [forms for one in networks for forms in _forms(one, batch) if forms not in asked]
        asked.update(new)
        for spec, plan in search.plans(new, among).items():
            timed.setdefault(spec, plan)  # what competed with all kernels stays

    find([network])
    best = {name: timed[spec] for name, (_, spec) in fastest_forms(network, batch, timed).items()}
    winners = frozenset(plan.kernel for plan in best.values())
    program = network.program
    rates = {c.name: program.products(c) / best[c.name].microseconds for c in program.convolutions if c.name in best}
    least = WORTH_WIDENING * sum(plan.microseconds for plan in best.values())

    def worth_a_trial(tensor: str) -> bool:
        readers = [reader.name for reader in program.readers(tensor)]
        slow = any(rates.get(name, math.inf) < max(rates.values()) / 2 for name in readers)
        return slow and sum(best[name].microseconds for name in readers if name in best) >= least

    trials = {
        tensor: network.widened(tensor)
        for tensor, stored in network.stored.items()
        if stored.dtype in LARGEST and worth_a_trial(tensor)
    }
    find(trials.values(), winners)
    for tensor in trials:
        trial = network.widened(tensor)
        find([trial], winners)
        if microseconds(trial, batch, timed) < microseconds(network, batch, timed):
            network = trial
    return network, timed


def microseconds(network: Network, batch: int, timed: dict[Spec, Timed]) -> float:
    """Return what all convolutions that cuDNN computes take together; infinity where one of them has no plan."""
    try:
        chosen = fastest_forms(network, batch, timed)
    except CourseError:
        return math.inf
    return sum(timed[spec].microseconds for _, spec in chosen.values())


def _forms(network: Network, batch: int) -> list[Forms]:
    convolutions = filter(is_cudnn, network.program.convolutions)
    return [tuple(spec for _, spec in specs_of(network, convolution, batch)) for convolution in convolutions]
