"""``python -m ddsp_la2a`` is ``ddsp-la2a``."""

from ddsp_la2a.cli import main

main()
