#!/usr/bin/env python3
"""Numbers of this machine, not a test: get of 1 MiB into a numpy array, beside the same get in C++.

Both ask the same pool for the same blocks, and take turns in short slices of the same seconds: only their ratio
means something on a shared machine. Run it with the module's folder in PYTHONPATH.
"""

import argparse
import statistics
import subprocess
import time

import numpy

import cmpool

SLICE_SECONDS = 0.1
BLOCKS = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("native", help="bench_get, of the same build")
    parser.add_argument("uri", help="a pool with 80 MiB to spare, such as cmpool://127.0.0.1:7411?transport=shm")
    parser.add_argument("--bytes", type=int, default=1 << 20)
    parser.add_argument("--batch", type=int, default=1, help="blocks a call")
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()

    pool = cmpool.Pool(asked.uri, model="bench", dtype="u8", revision=str(asked.bytes))
    keys = [pool.key(str(at).encode()) for at in range(BLOCKS)]
    blocks = [numpy.full(asked.bytes, at, numpy.uint8) for at in range(BLOCKS)]
    for key, block in zip(keys, blocks):
        pool.put([key], [block], deadline=10)
    pages = [numpy.zeros(asked.bytes, numpy.uint8) for _ in range(BLOCKS)]
    batches = [
        (keys[at : at + asked.batch], pages[at : at + asked.batch]) for at in range(0, BLOCKS, asked.batch)
    ]
    assert pool.get(keys, pages, deadline=10).count(cmpool.Outcome.HIT) == BLOCKS
    assert all(numpy.array_equal(page, block) for page, block in zip(pages, blocks))

    def turn():
        """Blocks a second."""
        begun = time.perf_counter()
        calls = 0
        while (now := time.perf_counter()) - begun < SLICE_SECONDS:
            mine, into = batches[calls % len(batches)]
            if pool.get(mine, into).count(cmpool.Outcome.HIT) != len(mine):
                raise SystemExit("a block is gone: the pool is too small, or somebody else uses it")
            calls += 1
        return calls * asked.batch / (now - begun)

    command = [asked.native, asked.uri, str(asked.bytes), str(asked.batch), str(SLICE_SECONDS), str(BLOCKS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as native:

        def native_turn():
            native.stdin.write("go\n")
            native.stdin.flush()
            return float(native.stdout.readline())

        turn(), native_turn()  # pages are touched, paths are warm
        pairs = [(turn(), native_turn()) for _ in range(asked.rounds)]
        native.stdin.close()
    python, cpp = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(mine / other for mine, other in pairs)
    rate = asked.bytes / 1e9
    print(f"get {asked.bytes} B x {asked.batch}: python {python * rate:.2f} GB/s, C++ {cpp * rate:.2f} GB/s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
