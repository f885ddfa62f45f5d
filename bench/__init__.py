"""Benchmarks, each runnable alone as `python -m bench.NAME`; recorded figures lie in bench/results/."""
