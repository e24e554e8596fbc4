"""`python -m experiments.vanishing`."""

import sys

from experiments.framework.runner import main
from experiments.vanishing.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
