"""`python -m wsicl_jax VERB`: the same as `wsicl VERB`."""

import sys

from wsicl_jax.cli import main

sys.exit(main())
