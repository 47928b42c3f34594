"""A against A on a real GPU: what one backend says of itself under several names is noise, and must not be claimed."""

import itertools
import math
from dataclasses import dataclass

import pytest

from inference_lib.measure.exports import ensure_reference, export_missing
from inference_lib.measure.plan import Rival, RivalSet
from inference_lib.measure.profiles import PROFILES
from inference_lib.measure.rounds import Race
from inference_lib.records.comparison import verdict_of
from inference_lib.records.record import Invocation
from inference_lib.records.statistics import log_ratios, over_invocations
from inference_lib.seam import Workload

COPIES, INVOCATIONS = 8, 3
CELLS = (("pytorch-cudagraph", "resnet18"), ("aot-inductor", "vanilla_cnn"), ("torchscript", "resnet18"))


@dataclass(frozen=True)
class Copy(Rival):
    """A cell that runs against itself: a difference is then noise."""

    number: int


def invocations_of(backend: str, model: str) -> list[list[Invocation]]:
    """Return the invocations of every copy."""
    profile = PROFILES["full"]
    copies = tuple(Copy(backend, Workload(model, 1, "fp16", "cuda"), number) for number in range(COPIES))
    assert not export_missing(copies, print)
    ensure_reference(copies[0].workload.model, "cuda", profile.images("cuda"))
    found: list[list[Invocation]] = [[] for _ in copies]
    for number in range(INVOCATIONS):
        outcomes = Race(RivalSet("the same", copies), profile, seed=number).run(number, phases=False)
        for own, copy in zip(found, copies, strict=True):
            invocation = outcomes[copy].invocation
            assert invocation is not None, outcomes[copy].failure
            own.append(invocation)
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["end_to_end", "device"])
def test_a_backend_is_seldom_faster_than_itself(kind: str, measured: list[list[list[Invocation]]]) -> None:
    verdicts = []
    for copies in measured:
        for one, other in itertools.combinations(copies, 2):
            rounds = [log_ratios(a.of(kind), b.of(kind)) for a, b in zip(one, other, strict=True)]  # type: ignore[arg-type]
            verdicts.append(verdict_of(over_invocations(rounds)))
    claims = sum(verdict in ("faster", "slower") for verdict in verdicts)
    print(f"{kind}: {claims} claims in {len(verdicts)} comparisons")
    assert claims <= math.ceil(0.05 * len(verdicts))


@pytest.fixture(scope="module")
def measured() -> list[list[list[Invocation]]]:
    return [invocations_of(backend, model) for backend, model in CELLS]


def test_copies_are_rivals_of_their_own() -> None:
    assert len({Copy("pytorch", Workload("vanilla_cnn", 1), number) for number in range(COPIES)}) == COPIES
