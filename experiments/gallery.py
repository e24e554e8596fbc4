"""`python -m experiments.gallery`: see `experiments.framework.gallery`."""

import sys

from experiments.framework.gallery import main

if __name__ == "__main__":
    sys.exit(main())
