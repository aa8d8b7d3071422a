"""`python -m omnidistill` is the `omnidistill` command."""

import sys

from omnidistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
