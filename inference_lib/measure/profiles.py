"""How thorough a measurement is: a quick look on any machine, or the published edition."""

from dataclasses import dataclass, replace

from inference_lib.measure.timing import StoppingRule
from inference_lib.records.statistics import LEAST_INVOCATIONS
from inference_lib.seam import PRECISIONS, Precision, Workload
from inference_lib.support.errors import named

FEWER_ROUNDS = 3
"""A batch of more than one image has so many times fewer rounds: its times are longer, and scatter less."""

HOST_ROUNDS = 5
"""Of a processor at batch 1, at most: its threads go on looking for work after each turn, for longer than it took. The
turns are longer instead."""

HOST_BUDGETS = 5
"""Of a processor, throughput is measured for so many times the budget: seen, what came right after a pause took twice
as long as what came later."""


@dataclass(frozen=True)
class Profile:
    """Sizes of one thoroughness."""

    name: str
    invocations: int
    """Times that all rivals are started anew; the grid is passed through so often."""
    rounds: int
    """Rounds of an invocation at batch 1, see ``rounds_at``."""
    iterations: int
    """Timed inferences of a turn; fewer where that would take longer than ``turn_s``."""
    turn_s: float
    least_iterations: int
    sweep: tuple[int, ...]
    """Batch sizes of the precisions that draw a curve; of the others, the ends say enough."""
    sweep_cpu: tuple[int, ...]
    budget_s: float
    """Seconds for each series outside the rounds: parts, throughput, what a chapter times itself."""
    test_images: int
    """Images of the test set on which accuracy and agreement are computed, see ``images``."""
    few_test_images: int
    """Of the rows that ``images`` tells from another model by few."""
    load_s: float = 1.2
    """Seconds of steady load under NVML's eyes. It looks back over up to one: less would be mixed with others."""
    tries: int = 3
    """An invocation that other work disturbed is repeated, this often at most, and the least disturbed one is kept."""

    @property
    def rule(self) -> StoppingRule:
        """When a series that a chapter times itself is long enough."""
        return StoppingRule(self.budget_s)

    def throughput_s(self, device: str) -> float:
        """Return for how many seconds batches are queued back to back on a kind of device."""
        return self.budget_s if device == "cuda" else HOST_BUDGETS * self.budget_s

    def precisions(self, device: str) -> tuple[str, ...]:
        """Return the precisions to measure on a kind of device unless others are asked for."""
        return ("fp32", "fp16") if device == "cuda" else ("fp32",)

    def batch_sizes(self, precision: str, device: str) -> tuple[int, ...]:
        """Return the batch sizes to measure unless others are asked for: on a GPU, the curve is the 16-bit rows'.

        Eight bits are measured at its ends: where launches take the time, and where products do.
        """
        if device == "cpu":
            return self.sweep_cpu
        if PRECISIONS[precision].calibrated:
            return self.ends(device)
        return self.sweep if PRECISIONS[precision].bits <= 16 else self.sweep[:1]

    def ends(self, device: str) -> tuple[int, ...]:
        """Return the smallest and the largest batch size on ``device``: enough where no curve is wanted."""
        sweep = self.sweep_cpu if device == "cpu" else self.sweep
        return tuple(dict.fromkeys((sweep[0], sweep[-1])))

    def samples_load(self, workload: Workload) -> bool:
        """Whether the GPU is watched under steady load at this cell: where the curve begins, and it may idle."""
        return workload.on_gpu and workload.batch_size == self.sweep[0] and workload.precision.bits <= 16

    def images(self, device: str, of: int | None = None, precision: Precision | None = None) -> int:
        """Return on how many test images, ``of`` so many, a row of ``device`` is checked; or a model, on a GPU on all.

        On all, where claims are made of what it lost, which single pictures tell: in 16 bits on a GPU, in 8 everywhere.
        What rounds as the reference does is told apart from another model by few; a GPU takes minutes for all, one by
        one, and a CPU for any.
        """
        if device == "cuda":
            every = precision is None or precision.bits <= 16
        else:
            every = precision is not None and precision.calibrated and self.invocations >= LEAST_INVOCATIONS
        wanted = self.test_images if every else self.few_test_images
        return min(wanted, of or wanted)

    def rounds_at(self, batch_size: int, device: str) -> int:
        """Return the rounds of an invocation on a kind of device."""
        if batch_size > 1:
            return max(2, self.rounds // FEWER_ROUNDS)
        return self.rounds if device == "cuda" else min(self.rounds, HOST_ROUNDS)

    def iterations_of(self, one_s: float, batch_size: int, device: str) -> int:
        """Return the timed inferences of a turn, where one takes ``one_s`` seconds."""
        longer = self.rounds / self.rounds_at(1, device) if batch_size == 1 else 1.0
        wanted = longer * min(self.iterations, self.turn_s / max(one_s, 1e-6))
        return max(self.least_iterations, round(wanted))


QUICK = Profile(
    name="quick",
    invocations=1,
    rounds=8,
    iterations=10,
    turn_s=0.05,
    least_iterations=2,
    sweep=(1, 8),
    sweep_cpu=(1,),
    budget_s=0.1,
    test_images=256,
    few_test_images=64,
)
FULL = Profile(
    name="full",
    invocations=3,
    rounds=17,
    iterations=20,
    turn_s=0.12,
    least_iterations=3,
    sweep=(1, 8, 64, 256),
    sweep_cpu=(1, 8),
    budget_s=0.1,
    test_images=10_000,
    few_test_images=1_000,
)
SMOKE = replace(
    QUICK, name="smoke", rounds=2, iterations=2, turn_s=0.02, budget_s=0.02, sweep=(1,), test_images=64, tries=1
)
"""For tests: every cell runs, and no number means anything."""

PROFILES = {profile.name: profile for profile in (SMOKE, QUICK, FULL)}


def get_profile(name: str) -> Profile:
    """Return the profile called ``name``; CourseError names the valid ones."""
    return named("profile", name, PROFILES)
