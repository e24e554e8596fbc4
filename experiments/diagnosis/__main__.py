"""`python -m experiments.diagnosis`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("diagnosis"))
