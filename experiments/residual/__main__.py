"""`python -m experiments.residual`."""

import sys

from experiments.framework.runner import main
from experiments.residual.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
