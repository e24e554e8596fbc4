"""`python -m experiments.overhead`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("overhead"))
