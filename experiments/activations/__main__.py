"""`python -m experiments.activations`."""

import sys

from experiments.activations.experiment import EXPERIMENT
from experiments.framework.runner import main

sys.exit(main(EXPERIMENT))
