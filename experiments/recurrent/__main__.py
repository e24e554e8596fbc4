"""`python -m experiments.recurrent`."""

import sys

from experiments.framework import entry

sys.exit(entry.run("recurrent"))
