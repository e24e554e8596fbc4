"""`python -m experiments.saturation`."""

import sys

from experiments.framework.runner import main
from experiments.saturation.experiment import EXPERIMENT

sys.exit(main(EXPERIMENT))
