"""Programs that train with numba_fftconv: python -m numba_fftconv.examples.NAME."""
