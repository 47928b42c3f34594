"""The words that all other rooms share: what is asked for, what is exported, what is run."""

# ruff: noqa: F401 (the names are for others)

from inference_lib.seam.artifact import Artifact
from inference_lib.seam.backend import Availability, Backend, QuantizingBackend, Support, supports
from inference_lib.seam.build import build, find_artifact
from inference_lib.seam.calibration import Calibration
from inference_lib.seam.contract import Runner
from inference_lib.seam.dataset import Dataset
from inference_lib.seam.model import MODELS, Model, find_model
from inference_lib.seam.pictures import FASHION_MNIST, RANDOM
from inference_lib.seam.precision import PRECISIONS, Precision, find_precision
from inference_lib.seam.type_names import precision_of
from inference_lib.seam.workload import CPU, DEVICE_KINDS, Device, Workload
