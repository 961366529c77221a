"""``python -m training.demo``."""

import sys

from .show import main

if __name__ == "__main__":
    sys.exit(main())
