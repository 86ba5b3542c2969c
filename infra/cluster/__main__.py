"""``python -m infra.cluster``."""

import sys

from infra.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
