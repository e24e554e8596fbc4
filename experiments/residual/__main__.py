"""`python -m experiments.residual`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("residual"))
