"""`python -m experiments.overhead`."""

import sys

from experiments.framework.runner import main
from experiments.overhead.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
