"""`python -m experiments.isometry`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("isometry"))
