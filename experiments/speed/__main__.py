"""`python -m experiments.speed`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("speed"))
