"""`python -m experiments.vanishing`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("vanishing"))
