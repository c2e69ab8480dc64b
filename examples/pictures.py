"""What the examples share: an ordinary dataset of pictures, a small exact network, and the arguments."""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageOps

import unsquare  # before timm, so that a torchvision that does not fit torch can be imported
from unsquare.demo.materials import MaterialsConfig, make_materials

import timm  # isort: skip


class Pictures(torch.utils.data.Dataset):
    """Pictures in their own sizes: item i is (3, H, W) uint8 and a label; `sizes` are the shapes, known in advance."""

    def __init__(self, folder: Path) -> None:
        index = unsquare.scan_source(folder)
        self.index = index.of_split("train") if "train" in index.splits else index
        self.sizes = self.index.sizes
        self.num_classes = len(self.index.classes)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.index.path(i)) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return pixels.view(picture.height, picture.width, 3).permute(2, 0, 1), int(self.index.labels[i])


class Network(torch.nn.Module):
    """An exact ResNet for uint8 pixels; with group norm, results depend neither on other images nor on ranks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.exact = unsquare.make_exact(
            timm.create_model("resnet10t", norm_layer="groupnorm1", num_classes=num_classes)
        )

    def forward(self, pixels: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        return self.exact(pixels / 255 - 0.5, sizes)


def step_loader(dataset: Pictures, args: argparse.Namespace) -> unsquare.StepLoader:
    """The three parts for any loop: a batch sampler, a collate function, and the loader's batches as steps."""
    config = unsquare.PlanConfig(step_images=args.step_images)
    limits = unsquare.Limits(budget_pixels=args.budget_pixels, launch_pixels=args.budget_pixels // 16)
    sampler = unsquare.StepSampler(dataset.sizes, config, limits)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, collate_fn=unsquare.PadCollate(), num_workers=args.workers
    )
    return unsquare.StepLoader(loader)


def arguments(description: str) -> argparse.Namespace:
    """The command line; a stopped run resumes when it is started again."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of class folders (default: synthetic pictures)")
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="where checkpoints go")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--stop-after", type=int, default=-1, help="stop after this many steps, as if interrupted")
    parser.add_argument("--step-images", type=int, default=8, help="images per step, over all ranks")
    parser.add_argument("--budget-pixels", type=int, default=4_000_000, help="most pixels of a micro-batch")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--devices", type=int, default=2, help="processes of the Lightning example")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def pictures(args: argparse.Namespace) -> Pictures:
    """The dataset of the given folder, or of synthetic pictures."""
    made = MaterialsConfig(num_train=60, num_val=6, num_test=6, mean_pixels=10_000)
    return Pictures(args.folder or make_materials(args.out / "pictures", made))
