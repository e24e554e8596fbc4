"""`python -m experiments.recurrent`."""

import sys

from experiments.framework.runner import main
from experiments.recurrent.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
