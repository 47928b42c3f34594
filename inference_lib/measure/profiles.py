"""How thorough a measurement is: a quick look on any machine, or the published edition."""

from collections.abc import Mapping
from dataclasses import dataclass

from inference_lib.errors import unknown_name
from inference_lib.measure.timing import StoppingRule


@dataclass(frozen=True)
class Profile:
    """Sizes and time budgets of one thoroughness."""

    name: str
    batch_sizes: Mapping[str, tuple[int, ...]]
    """Batch sizes to measure in each precision, in rising order."""
    budget_s: float
    """Seconds at most for each timed series (end to end, parts, throughput)."""
    min_samples: int
    """Samples before a series may end for being precise enough."""
    load_s: float
    """Seconds of steady load under NVML's eyes."""
    load_cells: tuple[tuple[str, int], ...]
    """Precisions and batch sizes at which the load is sampled."""
    test_images: int
    """Images of the test set on which accuracy and agreement are computed on a GPU, see ``images``."""
    cpu_test_images: int

    @property
    def rule(self) -> StoppingRule:
        """When a timed series is long enough."""
        return StoppingRule(self.budget_s, min_samples=self.min_samples)

    def precisions(self, device: str) -> tuple[str, ...]:
        """Return the precisions to measure on ``device`` unless others are asked for."""
        return ("fp32", "fp16") if device == "cuda" else ("fp32",)

    def images(self, device: str) -> int:
        """Return on how many test images a row of ``device`` is checked; a CPU takes minutes for all of them."""
        return self.test_images if device == "cuda" else self.cpu_test_images

    def ends(self, device: str) -> tuple[int, ...]:
        """Return the smallest and the largest batch size on ``device``: enough where no curve is wanted."""
        sizes = [size for precision in self.precisions(device) for size in self.batch_sizes[precision]]
        return (min(sizes), max(sizes))


LOAD_S = 1.2
"""NVML looks back over up to a second; a shorter load would be mixed with what ran before."""

PROFILES = {
    "quick": Profile(
        name="quick",
        batch_sizes={"fp32": (1, 8), "tf32": (1, 8), "fp16": (1, 8)},
        budget_s=0.2,
        min_samples=30,
        load_s=LOAD_S,
        load_cells=(("fp32", 1), ("fp16", 1)),
        test_images=256,
        cpu_test_images=128,
    ),
    "full": Profile(
        name="full",
        # The curve over batch sizes is drawn in FP16; of the others, its ends say enough.
        batch_sizes={"fp32": (1, 256), "tf32": (1, 256), "fp16": (1, 8, 64, 256)},
        budget_s=0.1,
        min_samples=100,
        load_s=LOAD_S,
        load_cells=(("fp32", 1), ("fp16", 1)),
        test_images=10_000,
        cpu_test_images=512,
    ),
}


def get_profile(name: str) -> Profile:
    """Return the profile called ``name``; CourseError names the valid ones."""
    if name not in PROFILES:
        raise unknown_name("profile", name, tuple(PROFILES))
    return PROFILES[name]
