"""`python -m experiments.batchnorm`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("batchnorm"))
