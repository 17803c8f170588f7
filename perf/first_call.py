"""The first call of a shape: how long a user waits, with an empty and with a filled disk cache.

Each figure needs a process of its own.  As a program this file is that process: it makes one call and prints its
seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import place
from layers import Layer, named


def child(name: str, pass_name: str, N: int, device: str) -> dict[str, float]:
    """Seconds of the import and of the first call, in this process; on a GPU all else that is first happened before."""
    layer = named(name, N)
    start = time.perf_counter()
    import numpy as np
    import ours

    imported = time.perf_counter()
    here = place.at(device)
    shapes = layer.input_shape, layer.weight_shape, layer.output_shape
    x, w, dy = (here.put(np.ones(shape, layer.dtype)) for shape in shapes)
    here.finish()
    ready = time.perf_counter()
    ours.call(layer, pass_name, x, w, dy)
    here.finish()
    return {"import": imported - start, "call": time.perf_counter() - ready}


def measure(layer: Layer, pass_name: str, here: place.Place) -> dict[str, dict[str, float]]:
    """The child's figures twice over one cache folder that is empty at first: cold, then warm."""
    command = [sys.executable, __file__, layer.name, pass_name, str(layer.N), here.name]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        runs = {}
        for state in here.first_call_limits:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            runs[state] = json.loads(done.stdout)
    return runs


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
