"""What it costs to make a network exact: processor seconds of `make_exact`, the least of several runs.

Run it beside another version of the package by PYTHONPATH, in turns: the machine's speed changes with its neighbors.

    python benchmarks/conversion_cost.py resnet50 convnext_tiny efficientnet_b0
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch

import unsquare.exact  # first: it mends a torchvision that does not fit torch

warnings.simplefilter("ignore")
timm = __import__("timm")


def seconds(name: str, rounds: int) -> float:
    """The least processor seconds of one conversion."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        unsquare.exact.make_exact(model)
        found.append(time.process_time() - begin)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["resnet50", "convnext_tiny", "efficientnet_b0"])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({name: round(seconds(name, given.rounds), 3) for name in given.models}))


if __name__ == "__main__":
    main()
