"""`python -m experiments.saturation`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("saturation"))
