"""``python -m benchmarks``: the compressor beside its peers, and the first calls in a process."""

from benchmarks import first_call, operators

operators.main()
print()
first_call.main()
