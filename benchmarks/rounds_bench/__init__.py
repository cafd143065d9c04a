"""What `bench_rounds.py` is made of."""
