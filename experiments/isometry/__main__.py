"""`python -m experiments.isometry`."""

import sys

from experiments.framework.runner import main
from experiments.isometry.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
