"""``python -m training.toy``."""

import sys

from .flow_matching import main

if __name__ == "__main__":
    sys.exit(main())
