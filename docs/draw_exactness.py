"""Draws docs/exactness.svg: what a window sees at the edge of an image's region, and how far an error spreads.

The values of the windows and the maps of errors are computed by the networks, not drawn by hand.

    python docs/draw_exactness.py docs/exactness.svg
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from unsquare.exact import make_exact
from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

timm = import_timm()

SIZES = ((176, 304), (272, 192))
CANVAS = (288, 320)
INK, QUIET, LEAK, GOOD = "#1d2733", "#6b7784", "#c8323c", "#1f7a4d"
REAL, OUTSIDE = "#dbe7f3", "#f1f0ec"
SMALLEST, LARGEST = 1e-5, 1.0


def photograph(height: int, width: int, seed: int) -> np.ndarray[Any, Any]:
    """A smooth picture (height, width, 3) that stands for a photograph."""
    rng = np.random.default_rng(seed)
    light = torch.tensor(rng.normal(0, 0.2, (1, 1, 5, 6)) + rng.normal(0, 0.07, (1, 3, 5, 6)))
    coarse = light + torch.tensor(((0.42, 0.52, 0.62), (0.62, 0.52, 0.38))[seed])[None, :, None, None]
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return smooth[0].permute(1, 2, 0).clamp(0, 1).numpy()


def normalized(height: int, width: int, seed: int) -> Tensor:
    """The picture as networks get it, with some grain, (3, height, width)."""
    grain = np.random.default_rng(seed + 10).normal(0, 0.3, (height, width, 3))
    return torch.tensor((photograph(height, width, seed) - 0.45) / 0.225 + grain).permute(2, 0, 1).contiguous()


def stages(model: Any) -> dict[str, nn.Sequential]:
    """The first parts of a ResNet, each from the pixels on."""
    stem = [model.conv1, model.bn1, model.act1]
    parts = {"stem": stem, "stage 1": [model.maxpool, model.layer1]}
    parts |= {f"stage {number}": [getattr(model, f"layer{number}")] for number in (2, 3, 4)}
    found, layers = {}, []
    for name, more in parts.items():
        layers += more
        found[name] = nn.Sequential(*layers)
    return found


def draw_canvases(axes: list[Axes]) -> None:
    """The two images on their canvas, a window at the edge of each region."""
    for number, (ax, (height, width)) in enumerate(zip(axes, SIZES)):
        ax.add_patch(
            Rectangle((0, 0), CANVAS[1], CANVAS[0], facecolor=OUTSIDE, edgecolor="#d3d1c8", hatch="////", linewidth=0)
        )
        ax.imshow(photograph(height, width, number), extent=(0, width, height, 0), zorder=2)
        ax.add_patch(Rectangle((0, 0), CANVAS[1], CANVAS[0], fill=False, edgecolor=QUIET, linewidth=1.2, zorder=3))
        ax.set(xlim=(-3, CANVAS[1] + 3), ylim=(CANVAS[0] + 3, -3), aspect="equal")
        ax.axis("off")
        ax.set_title(f"image of {height} x {width}", fontsize=9, color=INK, pad=3)
        ax.text(
            *((CANVAS[1] / 2, (height + CANVAS[0]) / 2) if number == 0 else ((width + CANVAS[1]) / 2, CANVAS[0] / 2)),
            "padding",
            rotation=0 if number == 0 else 90,
            ha="center",
            va="center",
            fontsize=9,
            color=QUIET,
            bbox={"facecolor": OUTSIDE, "edgecolor": "none", "pad": 1.5},
            zorder=4,
        )
    window = Rectangle((SIZES[1][1] - 20, 110), 40, 40, fill=False, edgecolor=LEAK, linewidth=2.2, zorder=5)
    axes[1].add_patch(window)


def edge_values() -> dict[str, Tensor]:
    """What the second layer's windows find around a region's right edge after convolution, batch norm and ReLU."""
    torch.manual_seed(4)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).double().eval()
    first = reference.randomized(first, 3)
    image = normalized(12, 9, 1)
    canvas = torch.zeros(1, 3, 12, 14, dtype=torch.float64)
    canvas[0, :, :, :9] = image
    with torch.no_grad():
        alone = nn.functional.pad(first(image[None]), (1, 1, 1, 1))
        naive = first(canvas)
        exact = make_exact(first)(canvas, torch.tensor([[12, 9]]))
    channel = int(naive[0, :, 5:8, 9:11].mean((1, 2)).argmax())
    rows, columns = slice(4, 7), slice(6, 11)
    return {
        "the image alone": nn.functional.pad(alone[0, channel], (0, 4))[5:8, 7:12][:, :4],
        "naive padding": naive[0, channel, rows, columns],
        "exact": exact[0, channel, rows, columns],
    }


def draw_windows(axes: list[Axes]) -> None:
    """The cells around the edge, and the window that looks over it."""
    notes = (
        "beyond the edge:\nthe layer's own zeros",
        "leaked: bias and norm\nmade the padding nonzero",
        "zeros again, before every layer\nthat looks at neighboring pixels",
    )
    for ax, (title, cells), note, color in zip(axes, edge_values().items(), notes, (INK, LEAK, GOOD)):
        for (row, column), value in np.ndenumerate(cells.numpy()):
            real = column < 3
            face = REAL if real else OUTSIDE
            leaked = not real and value != 0
            ax.add_patch(
                Rectangle((column, row), 1, 1, facecolor="#f7d9d9" if leaked else face, edgecolor="white", linewidth=2)
            )
            ax.text(
                column + 0.5,
                row + 0.5,
                "0" if value == 0 else f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color=LEAK if leaked else INK if real else QUIET,
                fontweight="bold" if leaked else "normal",
            )
        ax.plot([3, 3], [-0.16, 3.16], color=INK, linewidth=1.4, linestyle=(0, (3, 2)))
        ax.add_patch(Rectangle((1.04, 0.04), 2.92, 2.92, fill=False, edgecolor=color, linewidth=2.4, zorder=5))
        middle = cells.shape[1] / 2
        ax.set(xlim=(middle - 2.6, middle + 2.6), ylim=(3.3, -0.3), aspect="equal")
        ax.axis("off")
        ax.set_title(title, fontsize=10, color=color, fontweight="bold", pad=3)
        ax.text(middle, 3.4, note, ha="center", va="top", fontsize=8.5, color=QUIET, linespacing=1.25)


def draw_errors(axes: np.ndarray[Any, Any]) -> Any:
    """Maps of the error against the image alone, stage by stage: naive above, exact below."""
    torch.manual_seed(0)
    model = reference.randomized(timm.create_model("resnet18")).double().eval()
    images = [normalized(*size, seed) for seed, size in enumerate(SIZES)]
    canvas = torch.zeros(2, 3, *CANVAS, dtype=torch.float64)
    for place, image in zip(canvas, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    shown, colors = None, plt.get_cmap("YlOrRd").with_extremes(under="white")
    for column, (name, part) in enumerate(stages(model).items()):
        with torch.no_grad():
            alone = part(images[1][None])[0]
            naive = part(canvas)[1]
            exact = make_exact(part)(canvas, torch.tensor(SIZES))[1]
        height, width = alone.shape[1:]
        for row, found in enumerate((naive, exact)):
            ax = axes[row, column]
            error = (found[:, :height, :width] - alone).abs().amax(0) / alone.abs().max()
            shown = ax.imshow(error.clamp(min=1e-30).numpy(), norm=LogNorm(SMALLEST, LARGEST), cmap=colors)
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(color=QUIET, linewidth=0.8)
            worst = float(error.max())
            ax.set_xlabel(
                f"{worst:.0e}" if worst else "0", fontsize=9, color=(LEAK, GOOD)[row], fontweight="bold", labelpad=3
            )
            if row == 0:
                ax.set_title(f"{name}\n{height} x {width}", fontsize=8.5, color=INK, pad=4)
            if column == 0:
                ax.set_ylabel(("naive padding", "exact")[row], fontsize=10, color=(LEAK, GOOD)[row], fontweight="bold")
    return shown


def draw_rules(axes: list[Axes]) -> None:
    """What max-pool, average pool and statistics do with the outside, on a window of which half is outside."""
    inside = (-0.4, -0.7)
    rules = (
        ("max-pool", "-∞", "largest of the real: -0.4", "naive: 0"),
        ("average pool", "0", "sum / 2, as alone: -0.55", "naive: sum / 4 = -0.28"),
        ("norms, global pools", "", "over the real pixels only", "naive: over the canvas"),
    )
    for ax, (title, outside, right, wrong) in zip(axes, rules):
        for row in range(2):
            for column in range(2):
                face = REAL if column == 0 else OUTSIDE
                ax.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white", linewidth=2))
                text = f"{inside[row]:.1f}" if column == 0 else outside
                ax.text(
                    column + 0.5,
                    row + 0.5,
                    text,
                    ha="center",
                    va="center",
                    fontsize=10,
                    color=INK if column == 0 else QUIET,
                )
        if not outside:
            ax.add_patch(Rectangle((1, 0), 1, 2, facecolor="none", edgecolor="#d3d1c8", hatch="////", linewidth=0))
        ax.plot([1, 1], [-0.12, 2.12], color=INK, linewidth=1.4, linestyle=(0, (3, 2)))
        ax.text(2.25, 0.1, title, fontsize=10, color=INK, fontweight="bold", va="center")
        ax.text(2.25, 0.95, right, fontsize=9, color=GOOD, va="center")
        ax.text(2.25, 1.65, wrong, fontsize=9, color=LEAK, va="center")
        ax.set(xlim=(-0.1, 7.4), ylim=(2.3, -0.3), aspect="equal", anchor="W")
        ax.axis("off")


def main() -> None:
    """Draw and save."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "svg.hashsalt": "unsquare", "hatch.linewidth": 0.6})
    figure = plt.figure(figsize=(11, 9.4), facecolor="white")
    figure.text(0.03, 0.975, "1  Two images on one canvas", **_HEADING)
    first = figure.add_gridspec(1, 2, left=0.03, right=0.385, top=0.94, bottom=0.715, wspace=0.08)
    draw_canvases([figure.add_subplot(cell) for cell in first])
    figure.text(0.42, 0.975, "2  A window over the edge, at the second layer", **_HEADING)
    second = figure.add_gridspec(1, 3, left=0.42, right=0.985, top=0.94, bottom=0.77, wspace=0.08)
    draw_windows([figure.add_subplot(cell) for cell in second])
    figure.text(
        0.03, 0.665, "3  Error against the image of 272 x 192 alone, inside its region: a stock ResNet-18", **_HEADING
    )
    third = figure.add_gridspec(2, 5, left=0.065, right=0.9, top=0.60, bottom=0.18, wspace=0.06, hspace=0.14)
    maps = draw_errors(np.array([[figure.add_subplot(third[row, column]) for column in range(5)] for row in range(2)]))
    bar = figure.colorbar(
        maps, cax=figure.add_axes((0.925, 0.2, 0.014, 0.39)), extend="min", ticks=[1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]
    )
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    bar.outline.set(edgecolor=QUIET, linewidth=0.8)
    bar.ax.set_title("relative\nerror", fontsize=8.5, color=INK, pad=6)
    bar.ax.minorticks_off()
    figure.text(0.03, 0.125, "4  What other layers do with the padding", **_HEADING)
    fourth = figure.add_gridspec(1, 3, left=0.03, right=0.985, top=0.105, bottom=0.012, wspace=0.04)
    draw_rules([figure.add_subplot(cell) for cell in fourth])
    figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith("svg") else None, dpi=110)


_HEADING: dict[str, Any] = {"fontsize": 12, "color": INK, "fontweight": "bold", "va": "center"}

if __name__ == "__main__":
    main()
