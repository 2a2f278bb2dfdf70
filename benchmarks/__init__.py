"""Measurements that take minutes: ``python -m benchmarks.<name>``; results stand in README.md here."""
