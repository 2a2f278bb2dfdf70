"""Measurements that take minutes: ``python -m benchmarks.<name>``; results stand in README.md here.

Those of speed are ``python -m benchmarks``, ``benchmarks.scaling`` and ``benchmarks.blocks``.
"""

import os

# Torch's threads wait spinning unless told otherwise, before torch is there. Where other programs run beside it that
# makes a call of 10 µs one of 9 ms.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
