"""`python -m experiments.batchnorm`."""

import sys

from experiments.batchnorm.experiment import EXPERIMENT
from experiments.framework.runner import main

sys.exit(main(EXPERIMENT))
