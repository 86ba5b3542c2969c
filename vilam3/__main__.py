"""``python -m vilam3`` is ``vilam3``."""

import sys

from vilam3.cli.main import main

sys.exit(main())
