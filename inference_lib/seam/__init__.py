"""The words that all other rooms share: what is asked for, what is exported, what is run."""

from inference_lib.seam.artifact import Artifact
from inference_lib.seam.backend import (
    Availability,
    Backend,
    QuantizingBackend,
    Runner,
    StagedRunner,
    Support,
    supports,
)
from inference_lib.seam.build import build, find_artifact
from inference_lib.seam.calibration import Calibration
from inference_lib.seam.contract import CheckedRunner
from inference_lib.seam.dataset import Dataset
from inference_lib.seam.model import MODELS, Model, find_model
from inference_lib.seam.pictures import FASHION_MNIST, RANDOM
from inference_lib.seam.precision import PRECISIONS, Precision, find_precision
from inference_lib.seam.type_names import precision_of
from inference_lib.seam.workload import CPU, DEVICE_KINDS, Device, Workload

__all__ = [
    "Artifact",
    "Availability",
    "Backend",
    "MODELS",
    "CPU",
    "Calibration",
    "CheckedRunner",
    "DEVICE_KINDS",
    "Dataset",
    "Device",
    "FASHION_MNIST",
    "Model",
    "PRECISIONS",
    "Precision",
    "QuantizingBackend",
    "RANDOM",
    "Runner",
    "StagedRunner",
    "Support",
    "Workload",
    "build",
    "find_artifact",
    "find_model",
    "find_precision",
    "precision_of",
    "supports",
]
