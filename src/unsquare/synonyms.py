"""What settings of other trainers are called here: those of timm, fastai, Ultralytics, torchvision, and earlier names.

Each hint is the end of a sentence; names in braces are settings of ours, written as the caller writes them.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable

_STEP = "did you mean {step_images}, the images of one optimizer step? Micro-batches are sized by memory."
_SIZE = "pictures keep their size and aspect ratio; {max_pixels} bounds it, {min_side} enlarges small ones."
_CLASSES = "the classes are those of the source."
_LENGTH = "there is no early stopping: {epochs} sets the length, and the run ends with the weights best on val."
_SOURCE = "the pictures are the first argument, {source}."

_HINTS: dict[tuple[str, ...], str] = {
    ("batch_size", "batch", "bs", "b"): _STEP,
    ("accumulate", "grad_accum_steps", "gradient_accumulation_steps", "accumulate_grad_batches"): _STEP,
    ("imgsz", "img_size", "image_size", "input_size", "img", "train_crop_size", "val_resize_size"): _SIZE,
    ("size", "resize", "crop_size", "rect"): _SIZE,
    ("patience", "early_stopping", "early_stopping_patience"): _LENGTH,
    ("learning_rate", "lr0", "base_lr", "blr", "lr_max", "max_lr"): "did you mean {lr}?",
    ("min_lr", "lrf", "lr_min"): "did you mean {final_lr_fraction}, a fraction of {lr}?",
    ("warmup", "warmup_lr", "lr_warmup_epochs"): "did you mean {warmup_epochs}?",
    ("sched", "scheduler", "lr_scheduler", "cos_lr"): (
        "the schedule is a warm-up and a cosine; {warmup_epochs} and {final_lr_fraction} shape it."
    ),
    ("model", "arch", "a", "m", "architecture", "network"): "did you mean {backbone}?",
    ("initial_checkpoint", "checkpoint", "pretrained_weights"): "did you mean {weights}?",
    ("amp", "half", "fp16", "bf16", "amp_dtype"): "did you mean {precision} bf16-mixed?",
    ("j", "num_workers", "n_jobs", "threads"): "did you mean {workers}?",
    ("data", "data_dir", "data_path", "train_dir", "dataset", "input", "i"): _SOURCE,
    ("project", "name", "output", "output_dir", "save_dir", "o", "run_dir"): "did you mean {out}?",
    ("epoch", "num_epochs", "n_epoch", "max_epochs", "e"): "did you mean {epochs}?",
    ("opt", "optim"): "did you mean {optimizer}?",
    ("wd", "decay"): "did you mean {weight_decay}?",
    ("drop", "drop_rate"): "did you mean {dropout}?",
    ("drop_path_rate", "stochastic_depth"): "did you mean {drop_path}?",
    ("smoothing",): "did you mean {label_smoothing}?",
    ("clip_grad", "clip_grad_norm", "grad_clip", "gradient_clip_val", "max_norm"): "did you mean {clip_norm}?",
    ("hflip", "fliplr", "flip"): "did you mean {flip_horizontal}?",
    ("vflip", "flipud"): "did you mean {flip_vertical}?",
    ("rotate", "rotation", "degrees", "rot90"): "did you mean {turns}, by quarter turns?",
    ("colour_jitter", "jitter"): "did you mean {color_jitter}?",
    ("freeze_layers", "freeze_backbone"): "did you mean {freeze}?",
    ("head_lr", "lr_head", "lr_mult", "head_lr_mult"): "did you mean {head_lr_factor}?",
    ("ld", "layer_lr_decay", "llrd"): "did you mean {layer_decay}?",
    ("progressive_resizing", "progressive_resize"): "did you mean {progressive}?",
    ("aa", "autoaugment", "auto_aug", "randaugment", "trivialaugment", "ra_magnitude"): "did you mean {auto_augment}?",
    ("reprob", "random_erase", "random_erasing"): "did you mean {erasing}?",
    ("mixup_alpha",): "did you mean {mixup}?",
    ("cutmix_alpha",): "did you mean {cutmix}?",
    ("gaussian_blur", "gaussian_blur_prob"): "did you mean {blur}?",
    ("gp", "global_pool", "pooling"): "did you mean {pool}?",
    ("grad_checkpointing", "gradient_checkpointing", "checkpointing"): "did you mean {strategy} checkpoint?",
    ("lowest_rung",): "did you mean {strategy}?",
    ("highest_rung",): "did you mean {max_strategy}?",
    ("device", "gpu", "gpus", "gpu_id"): "did you mean {accelerator}?",
    ("val_split", "val_fraction", "valid_pct"): "did you mean {validation_fraction}?",
    ("k_folds", "kfold", "num_folds", "n_splits", "cv"): "did you mean {folds}?",
    ("num_classes", "nc", "classes"): _CLASSES,
    ("random_seed", "manual_seed"): "did you mean {seed}?",
    ("topk", "top_k", "k"): "did you mean {top}?",
}
_BY_NAME = {name: hint for names, hint in _HINTS.items() for name in names}


def synonym(name: str, known: Iterable[str], form: Callable[[str], str] = str) -> str:
    """The end of a sentence on a name that others use; empty where it is none, or what it stands for is not known here.

    Args:
        name: the name that was received.
        known: the names of the settings here.
        form: how a setting's name is written, such as a flag.
    """
    hint, known = _BY_NAME.get(name.lower().replace("-", "_"), ""), set(known)
    parts = [(text, field) for text, field, _, _ in string.Formatter().parse(hint)]
    if any(field is not None and field not in known for _, field in parts):
        return ""
    return "".join(text + (form(field) if field else "") for text, field in parts)
