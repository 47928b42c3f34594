"""How thorough a measurement is: a quick look on any machine, or the published edition."""

from dataclasses import dataclass

from inference_lib.errors import unknown_name


@dataclass(frozen=True)
class Profile:
    """Sizes and time budgets of one thoroughness."""

    name: str
    batch_sizes: tuple[int, ...]
    cuda_precisions: tuple[str, ...]
    budget_s: float
    """Seconds at most for each timed series (end to end, parts, throughput)."""
    min_samples: int
    """Samples before a series may end for being precise enough."""
    load_s: float
    """Seconds of steady load under NVML's eyes."""
    load_batch_sizes: tuple[int, ...]
    """Batch sizes at which the load is sampled."""
    test_images: int
    """Images of the test set on which accuracy and agreement are computed."""

    def precisions(self, device: str) -> tuple[str, ...]:
        """Return the precisions to measure on ``device``."""
        return self.cuda_precisions if device == "cuda" else ("fp32",)


PROFILES = {
    "quick": Profile("quick", (1, 8), ("fp32", "fp16"), 0.3, 30, 0.6, (1, 8), 256),
    "full": Profile("full", (1, 8, 64, 256), ("fp32", "tf32", "fp16"), 0.15, 100, 1.0, (1, 256), 10_000),
}


def get_profile(name: str) -> Profile:
    """Return the profile called ``name``; CourseError names the valid ones."""
    if name not in PROFILES:
        raise unknown_name("profile", name, tuple(PROFILES))
    return PROFILES[name]
