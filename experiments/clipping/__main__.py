"""`python -m experiments.clipping`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("clipping"))
