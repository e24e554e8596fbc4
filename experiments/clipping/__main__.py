"""`python -m experiments.clipping`."""

import sys

from experiments.clipping.experiment import EXPERIMENT
from experiments.framework.runner import main

sys.exit(main(EXPERIMENT))
