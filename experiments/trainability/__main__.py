"""`python -m experiments.trainability`."""

import sys

from experiments.framework.runner import main
from experiments.trainability.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
