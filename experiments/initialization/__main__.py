"""`python -m experiments.initialization`."""

import sys

from experiments.framework.runner import main
from experiments.initialization.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
