"""What is imported where workers are forked from, by importing this: for who starts that before importing PyTorch."""

import importlib

from inference_lib.support.garbage import look_seldom

look_seldom()

from inference_lib.measure import workers  # noqa: E402 - it imports PyTorch

workers.context()  # PyTorch's compiler asks for what it sets
for name in workers.PRELOADED:
    importlib.import_module(name)
