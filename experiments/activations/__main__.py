"""`python -m experiments.activations`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("activations"))
