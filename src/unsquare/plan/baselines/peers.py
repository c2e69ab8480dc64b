"""Other projects that form batches of pictures of many sizes: what each does, and where that is described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.baselines import rules
from unsquare.plan.config import Limits
from unsquare.shapes import Sizes


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another project's rule for forming batches."""

    name: str
    rule: str
    """What it does, in one sentence."""
    source: str
    """Where the rule is described: project, file or paper, and address."""
    shuffled: bool
    """Whether batches are drawn again in each epoch."""
    keeps_pixels: bool = True
    """Whether every picture is trained on at its own size; if not, its time is for different work."""
    uniform: bool = False
    """Whether a batch is a uniform sample of all images, as our `mixed` steps are, rather than chosen by shape."""
    batches: Callable[[Sizes, Limits, int], PlanTable]
    """(sizes (N, 2), limits, seed) -> the batches of an epoch, in order of training."""


def _of_fixed_count(
    *, name: str, rule: str, source: str, shuffled: bool, by_count: rules.ByCount, uniform: bool = False
) -> tuple[Peer, Peer]:
    """A rule that leaves the batch size to the user, with two batch sizes."""
    return (
        Peer(
            name=f"{name}, safe",
            rule=f"{rule}; the batch size is the largest that never exceeds the budget in this epoch.",
            source=source,
            shuffled=shuffled,
            uniform=uniform,
            batches=partial(rules.safe, by_count),
        ),
        Peer(
            name=f"{name}, typical",
            rule=f"{rule}; the batch size is what the budget holds of mean size, so some batches exceed it.",
            source=source,
            shuffled=shuffled,
            uniform=uniform,
            batches=partial(rules.typical, by_count),
        ),
    )


_TORCHVISION = (
    "torchvision, references/detection/group_by_aspect_ratio.py, "
    "https://github.com/pytorch/vision/blob/main/references/detection/group_by_aspect_ratio.py"
)
_KOHYA = (
    "kohya-ss/sd-scripts, aspect ratio bucketing, library/model_util.py and library/train_util.py, "
    "https://github.com/kohya-ss/sd-scripts"
)
_FAIRSEQ = (
    "fairseq, --max-tokens, fairseq/data/data_utils_fast.pyx, "
    "https://github.com/facebookresearch/fairseq/blob/main/fairseq/data/data_utils_fast.pyx"
)
_DEEPSPEED = (
    "DeepSpeed, variable batch size and learning rate, "
    "deepspeed/runtime/data_pipeline/data_sampling/variable_batch_size_and_lr.py, "
    "https://github.com/deepspeedai/DeepSpeed"
)

PEERS: tuple[Peer, ...] = (
    *_of_fixed_count(
        name="random batches",
        rule="a shuffle cut into batches of one size, each padded to its largest height and width",
        source="PyTorch, torch.utils.data: RandomSampler and BatchSampler, https://pytorch.org/docs/stable/data.html",
        shuffled=True,
        uniform=True,
        by_count=rules.random_batches,
    ),
    *_of_fixed_count(
        name="two aspect groups (torchvision k = 0, detectron2)",
        rule="upright and wide pictures of a shuffle are gathered apart, and a group that has enough is a batch",
        source=f"{_TORCHVISION}; detectron2, AspectRatioGroupedDataset, detectron2/data/common.py, "
        "https://github.com/facebookresearch/detectron2/blob/main/detectron2/data/common.py",
        shuffled=True,
        by_count=partial(rules.aspect_groups, 0),
    ),
    *_of_fixed_count(
        name="eight aspect groups (torchvision k = 3)",
        rule="pictures of a shuffle are gathered in eight groups by height / width, with boundaries from a half to two "
        "at thirds of a doubling, and a group that has enough is a batch",
        source=_TORCHVISION,
        shuffled=True,
        by_count=partial(rules.aspect_groups, 3),
    ),
    *_of_fixed_count(
        name="two aspect groups, rest joined (mmdetection)",
        rule="upright and other pictures of a shuffle are gathered apart, a group that has enough is a batch, and what "
        "is left of both is joined",
        source="MMDetection, AspectRatioBatchSampler, mmdet/datasets/samplers/batch_sampler.py, "
        "https://github.com/open-mmlab/mmdetection/blob/main/mmdet/datasets/samplers/batch_sampler.py",
        shuffled=True,
        by_count=rules.two_groups_joined,
    ),
    *_of_fixed_count(
        name="sort by aspect (YOLO rect)",
        rule="all pictures sorted by height / width and cut into batches of one size, the same in every epoch; here "
        "without the resizing to one long side that comes before it there",
        source="Ultralytics, rect training, ultralytics/data/base.py: set_rectangle, "
        "https://github.com/ultralytics/ultralytics/blob/main/ultralytics/data/base.py",
        shuffled=False,
        by_count=rules.by_aspect,
    ),
    *_of_fixed_count(
        name="sort by area",
        rule="all pictures sorted by pixel count and cut into batches of one size, the same in every epoch",
        source="the usual way with sentences, sorted by length, here by pixels: Morishita et al. 2017, An Empirical "
        "Study of Mini-Batch Creation Strategies for Neural Machine Translation, https://arxiv.org/abs/1706.05765",
        shuffled=False,
        by_count=rules.by_area,
    ),
    Peer(
        name="fixed resolutions, resized (kohya)",
        rule="every picture is resized and cropped to the canvas of nearest aspect in a list of canvases that all have "
        "about as many pixels as the mean picture, so nothing is padded, but large pictures lose pixels, and small "
        "ones gain pixels that show nothing new.",
        source=_KOHYA,
        shuffled=True,
        keeps_pixels=False,
        batches=rules.fixed_resolutions_resized,
    ),
    Peer(
        name="fixed resolutions, padded (after kohya)",
        rule="every picture is padded, not resized, to the next multiples of one step for both sides, and a canvas is "
        "batched to the budget; of steps 8, 16, ... 1024 the cheapest.",
        source=_KOHYA,
        shuffled=True,
        batches=rules.fixed_resolutions_padded,
    ),
    Peer(
        name="count x most pixels (fairseq)",
        rule="all pictures sorted by pixel count and cut so that count x most pixels stays within the budget, which "
        "the padded canvas may still exceed; batches are the same in every epoch, in another order.",
        source=_FAIRSEQ,
        shuffled=False,
        batches=rules.fairseq_pixels,
    ),
    Peer(
        name="count x canvas (after fairseq)",
        rule="all pictures sorted by pixel count and cut so that count x largest height x largest width stays within "
        "the budget; batches are the same in every epoch, in another order.",
        source=_FAIRSEQ,
        shuffled=False,
        batches=rules.fairseq_canvas,
    ),
    Peer(
        name="sum of pixels, shuffled (DeepSpeed)",
        rule="a shuffle, another for each seed, cut so that the sum of real pixels stays within the budget, which "
        "the padded batch may exceed.",
        source=_DEEPSPEED,
        shuffled=True,
        uniform=True,
        batches=rules.deepspeed_random,
    ),
    Peer(
        name="sum of pixels, sorted (DeepSpeed)",
        rule="all pictures sorted by pixel count and cut so that the sum of real pixels stays within the budget, which "
        "the padded batch may exceed; the same in every epoch.",
        source=_DEEPSPEED,
        shuffled=False,
        batches=rules.deepspeed_sorted,
    ),
    Peer(
        name="two-level bins (lhotse, NeMo)",
        rule="bins of equal total height, each cut into bins of equal total width, 64 in all in the cheapest "
        "proportion; a batch is drawn from one bin, as many images as the budget holds of the bin's bound.",
        source="NVIDIA NeMo, 2D bucketing over lhotse's DynamicBucketingSampler, "
        "nemo/collections/common/data/lhotse/sampling.py and scripts/speech_recognition/estimate_duration_bins_2d.py, "
        "https://github.com/NVIDIA/NeMo; lhotse/dataset/sampling/dynamic_bucketing.py, "
        "https://github.com/lhotse-speech/lhotse",
        shuffled=True,
        batches=rules.two_level_bins,
    ),
    Peer(
        name="quantile grid",
        rule="equal numbers of pictures by pixel count, each cut into equal numbers by height / width, 64 cells in the "
        "cheapest proportion; a batch is drawn from one cell, as many images as the budget holds of its bound.",
        source="TensorFlow, tf.data.Dataset.bucket_by_sequence_length, with quantiles for boundaries and two sides for "
        "the length, https://www.tensorflow.org/api_docs/python/tf/data/Dataset#bucket_by_sequence_length",
        shuffled=True,
        batches=rules.quantile_grid,
    ),
)
"""The rules that need no package of the project's own."""
