"""Fast paths against plainly written ones: a file a benchmark, with ``cases(device)``."""
