"""``python -m wbvla_cli`` is ``wbvla``."""

import sys

from wbvla_cli.main import main

sys.exit(main())
