"""The command line on a rank whose memory runs out: `python short_of_memory.py RANK MOST_IMAGES STEPS train ...`.

On the rank named, forward passes of more images fail in the first so many micro-batches, as the CPU's allocator fails;
half of them fail in the backward pass instead. That is all that is put in: what happens then is the package's own.
"""

import os
import sys

import torch

from unsquare.cli import main
from unsquare.network.classifier import Classifier

FAILURE = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


class _Fails(torch.autograd.Function):
    """Memory that runs out in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError(FAILURE)


def inject(most_images: int, faults: int) -> None:
    """Let training on more images fail, so often."""
    forward = Classifier.forward
    left = [faults]

    def failing(self, pixels, *rest):
        if self.training and len(pixels) > most_images and left[0]:
            left[0] -= 1
            if left[0] % 2:
                raise RuntimeError(FAILURE)
            return _Fails.apply(forward(self, pixels, *rest))
        return forward(self, pixels, *rest)

    Classifier.forward = failing


if __name__ == "__main__":
    rank, most, faults = (int(word) for word in sys.argv[1:4])
    if int(os.environ.get("RANK", "0")) == rank:
        inject(most, faults)
    sys.exit(main(sys.argv[4:]))
