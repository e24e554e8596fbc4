"""`python -m experiments.initialization`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("initialization"))
