"""``python -m inference_lib``."""

import gc
import sys

from inference_lib.cli import main
from inference_lib.support.garbage import look_seldom

if __name__ == "__main__":
    look_seldom()
    status = main()
    gc.freeze()  # what is left ends with the process, garbage or not
    sys.exit(status)
