"""One of two processes of a test: trains an exact model on its share of the images, and saves what came of it."""

import sys

import torch
from safetensors.torch import save_file
from torch import distributed, nn

from unsquare.exact import make_exact
from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

SHARES = [[(33, 47), (64, 96)], [(50, 61)]]


def images(generator: torch.Generator) -> list[list[torch.Tensor]]:
    """Each rank's images, the same in all processes."""
    return [[torch.randn(3, *size, generator=generator, dtype=torch.float64) for size in share] for share in SHARES]


def model(name: str) -> nn.Module:
    """The stock model, the same in all processes."""
    torch.manual_seed(0)
    return reference.randomized(import_timm().create_model(name, num_classes=7)).double().train()


def loss(exact: nn.Module, share: list[torch.Tensor]) -> torch.Tensor:
    """The summed loss of some images, padded with NaN."""
    sizes = torch.tensor([image.shape[1:] for image in share])
    pixels = torch.full((len(share), 3, *sizes.amax(dim=0).tolist()), float("nan"), dtype=torch.float64)
    for place, image in zip(pixels, share):
        place[:, : image.shape[1], : image.shape[2]] = image
    return (exact(pixels, sizes) * torch.linspace(-1, 1, 7, dtype=torch.float64)).sin().sum()


def main(name: str, kind: str, rank: int, meeting: str, out: str) -> None:
    """Take part as one rank; the first saves the summed loss, gradients and buffers."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if kind == "before":
        exact = make_exact(convert(model(name)))
    elif kind == "after":
        exact = convert(make_exact(model(name)))
    else:
        exact = make_exact(model(name))
    share = images(torch.Generator().manual_seed(1))[rank]
    if kind == "ddp":
        parallel = nn.parallel.DistributedDataParallel(exact)  # lives until backward is done
        value = loss(parallel, share)
        (2 * value).backward()  # gradients are averaged over the two
        del parallel  # or the group would end with it, under the lock that the group's own thread may still wait for
    else:
        value = loss(exact, share)
        value.backward()
        for parameter in exact.parameters():
            distributed.all_reduce(parameter.grad)
    total = value.detach().clone()
    distributed.all_reduce(total)
    if rank == 0:
        gradients = {f"gradient.{path}": one.grad.contiguous() for path, one in exact.named_parameters()}
        buffers = {f"buffer.{path}": one.contiguous() for path, one in exact.named_buffers()}
        save_file({"loss": total, **gradients, **buffers}, out)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
