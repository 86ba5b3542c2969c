"""``python -m infra.images``."""

import sys

from infra.images.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
