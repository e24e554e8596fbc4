"""`python -m experiments.trainability`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("trainability"))
