"""Small complete programs that use the package, each run as python -m numba_fftconv.examples.NAME."""
