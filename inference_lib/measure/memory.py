"""Whether rivals fit in memory together: they are alive at the same time, each in a process of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inference_lib.records.machine import this_machine

if TYPE_CHECKING:
    from inference_lib.measure.plan import Rival

GPU_RIVAL_MIB, GPU_IMAGE_MIB, ARENA_IMAGE_MIB = 1024, 8, 20
"""GPU memory of a rival, for itself and for each image of its batch in 16 bits, the last for ONNX Runtime, whose arena
keeps what the search for its kernels took: a tenth more than the most that any row of the course took on an H100 and an
H200, which is 1,006 MiB and 7.4 and 18 MiB an image."""

HOST_NEEDS_MIB = {"cpu": (450, 30), "cuda": (2048, 6)}
"""What a rival may take, for itself and for each image of its batch: a guess on the safe side. Beside a GPU the host
holds CUDA's libraries, and of the images only what is copied."""

GPU_USABLE, HOST_USABLE = 0.85, 0.7
"""Share of the memory that rivals may plan with; less where what they need is guessed."""


def fits(rivals: "Sequence[Rival]") -> bool:
    """Say whether ``rivals`` of one batch size and device fit in the device's and the host's memory together.

    In the whole memory, not in what is free at this moment: two runs on like machines have the same sets.
    """
    asked = rivals[0].workload
    machine = this_machine(asked.device.index)
    alone, image = HOST_NEEDS_MIB[asked.device.kind]
    if len(rivals) * (alone + image * asked.batch_size) > HOST_USABLE * machine.memory_gib * 1024:
        return False
    return not asked.on_gpu or sum(map(gpu_mib, rivals)) <= GPU_USABLE * (machine.gpu_memory_mib or 0)


def gpu_mib(rival: "Rival") -> float:
    """Return the GPU memory that ``rival`` may take, MiB."""
    asked, image = rival.workload, ARENA_IMAGE_MIB if rival.backend.startswith("onnxruntime") else GPU_IMAGE_MIB
    return GPU_RIVAL_MIB + image * asked.batch_size * asked.precision.bits / 16
