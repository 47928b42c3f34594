"""The thin library behind Mastering AI Inference: the names a chapter imports."""

from inference_lib.lab import Lab, open_lab
from inference_lib.seam import MODELS
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import create_model, load_pretrained

__all__ = ["CourseError", "Lab", "MODELS", "create_model", "load_pretrained", "open_lab"]
