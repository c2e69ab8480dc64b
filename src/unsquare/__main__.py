"""`python -m unsquare`, as torchrun starts it."""

import sys

from unsquare.cli import main

sys.exit(main())
