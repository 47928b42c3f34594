"""``python -m inference_lib``."""

import sys

from inference_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
