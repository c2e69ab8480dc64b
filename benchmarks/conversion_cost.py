"""What it costs to make a network exact: CPU seconds of `make_exact`, the minimum of several runs.

To compare with another version of the package, set PYTHONPATH and alternate, because the machine's speed changes with
other load.

    python benchmarks/conversion_cost.py resnet50 convnext_tiny efficientnet_b0
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch

import unsquare.exact  # first, so that a torchvision that does not fit torch can be imported

warnings.simplefilter("ignore")
timm = __import__("timm")


def seconds(name: str, rounds: int) -> float:
    """The minimum of the CPU seconds of a conversion."""
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
