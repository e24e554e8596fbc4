"""`python -m experiments.speed`."""

import sys

from experiments.framework.runner import main
from experiments.speed.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
