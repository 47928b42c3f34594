"""How thorough a measurement is: a quick look on any machine, or the published edition."""

from dataclasses import dataclass

from inference_lib.errors import unknown_name


@dataclass(frozen=True)
class Profile:
    """Sizes and time budgets of one thoroughness."""

    name: str
    batch_sizes: tuple[int, ...]
    tf32_batch_sizes: tuple[int, ...]
    """TF32 differs from FP32 in the arithmetic alone, so that its ends say enough."""
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

    def batch_sizes_of(self, precision: str) -> tuple[int, ...]:
        """Return the batch sizes to measure in ``precision``, in rising order."""
        return self.tf32_batch_sizes if precision == "tf32" else self.batch_sizes


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="quick",
            batch_sizes=(1, 8),
            tf32_batch_sizes=(1,),
            cuda_precisions=("fp32", "fp16"),
            budget_s=0.2,
            min_samples=30,
            load_s=1.2,
            load_batch_sizes=(1,),
            test_images=256,
        ),
        Profile(
            name="full",
            batch_sizes=(1, 8, 64, 256),
            tf32_batch_sizes=(1, 256),
            cuda_precisions=("fp32", "tf32", "fp16"),
            budget_s=0.1,
            min_samples=100,
            load_s=1.2,
            load_batch_sizes=(1,),
            test_images=10_000,
        ),
    )
}


def get_profile(name: str) -> Profile:
    """Return the profile called ``name``; CourseError names the valid ones."""
    if name not in PROFILES:
        raise unknown_name("profile", name, tuple(PROFILES))
    return PROFILES[name]
