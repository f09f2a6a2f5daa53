"""Zeros on disk and on the clock: bytes and load time of every form, time of a layer densely and by compressed rows.

    python benchmarks/sparse_forms.py [--threads 1] > sparse_forms.md

Weights are random, zeros where a mask of the stated share says so. Times are the quickest of several rounds, in
turns; on one thread they are the CPU's own time, so that other work on the machine does not count. Loading: a file of
the form, from the disk's cache into dense tensors. The last column is a dense layer of which as large a share of the
rows is left as of the weights: what is gained where zeros empty whole rows.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from sprig.core.compact import FORMS, decode, encode, sizes, smallest
from sprig.core.weights import read_tensors, write_tensors
from sprig.methods.penalties.storage import calls, timed

ZEROS = (0.8, 0.9, 0.95, 0.98)
LAYERS = (
    ("linear 784 → 300, 1 row", nn.Linear(784, 300), (1, 784)),
    ("linear 784 → 300, 64 rows", nn.Linear(784, 300), (64, 784)),
    ("linear 1024 → 1024, 1 row", nn.Linear(1024, 1024), (1, 1024)),
    ("linear 1024 → 1024, 64 rows", nn.Linear(1024, 1024), (64, 1024)),
    ("conv 64 → 64, 3x3, 8x8, 1 image", nn.Conv2d(64, 64, 3, padding=1), (1, 64, 8, 8)),
    ("conv 64 → 64, 3x3, 8x8, 32 images", nn.Conv2d(64, 64, 3, padding=1), (32, 64, 8, 8)),
)


def loading(tensor, form, clock):
    """Microseconds from the file to the dense tensor: the quickest of several."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        write_tensors(path, encode(tensor, form))
        seen = []
        for _ in range(15):
            start = clock()
            decode(read_tensors(path), form, tuple(tensor.shape))
            seen.append(clock() - start)
    return 1e6 * min(seen)


def narrow(layer, share):
    """The layer with this share of its rows."""
    rows = max(1, round(share * len(layer.weight)))
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, rows)
    return nn.Conv2d(layer.in_channels, rows, layer.kernel_size, padding=layer.padding)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    clock = time.thread_time if given.threads == 1 else time.perf_counter
    print("| layer | zeros | smallest | " + " | ".join(f"{f}, kB" for f in FORMS), end=" | ")
    print("dense, µs | CSR, µs | as large a share of rows, µs |")
    print("|---" * (6 + len(FORMS)) + "|")
    for name, layer, shape in LAYERS:
        x = torch.randn(shape)
        for zeros in ZEROS:
            with torch.no_grad():
                layer.weight.normal_().mul_(torch.rand_like(layer.weight) > zeros)
            found = sizes(layer.weight)
            small = narrow(layer, 1 - zeros)
            ways = calls(layer, x) | {"rows": calls(small, x)["dense"]}
            took = timed(ways, clock=clock)
            cells = [f"{found[f] / 1e3:.1f}" for f in FORMS]
            times = [f"{took[k]:.1f}" for k in ("dense", "csr", "rows")]
            row = " | ".join([name, f"{zeros:.0%}", smallest(layer.weight), *cells, *times])
            print(f"| {row} |", flush=True)
    print("\n| 1024 x 1024 float32, zeros | " + " | ".join(f"{f}: load, µs" for f in FORMS) + " |")
    print("|---" * (1 + len(FORMS)) + "|")
    for zeros in ZEROS:
        weight = torch.randn(1024, 1024) * (torch.rand(1024, 1024) > zeros)
        cells = [f"{loading(weight, form, clock):.0f}" for form in FORMS]
        print(f"| {zeros:.0%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
