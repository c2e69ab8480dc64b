# ruff: noqa: F821
"""A user's script as a type checker sees it: every public name, the calls of the README, and calls that are wrong.

`test_typing.py` runs mypy on it, in strict mode; it is never run itself.
"""

from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

import unsquare
from unsquare import (
    AugmentConfig,
    BatchLoader,
    Bucket,
    Buckets,
    BudgetError,
    Choices,
    ClassFigures,
    ComparisonResult,
    ConfigError,
    CrossValidation,
    DeviceConfig,
    Duplicate,
    EpochPlan,
    Evaluation,
    ExactError,
    ExactnessErrors,
    Fallback,
    Geometry,
    ImageError,
    ImageOverBudgetError,
    LearningRateConfig,
    Limits,
    MicroBatch,
    ModelConfig,
    OptimizerConfig,
    PadCollate,
    PaddedBatch,
    PlanConfig,
    PlanError,
    Prediction,
    Predictor,
    Problem,
    ProfileResult,
    RankStep,
    RateTest,
    RegionPool,
    Remark,
    ResolutionConfig,
    RunError,
    SavingConfig,
    Shape,
    ShapeIndex,
    SourceError,
    SpatialPyramidPool,
    StaleImageError,
    Step,
    StepLoader,
    StepSampler,
    Stopped,
    TaskConfig,
    TrainConfig,
    UndecodableError,
    UnsquareError,
    UsageError,
    Verification,
    class_weights,
    compare,
    cross_validate,
    evaluate,
    find_duplicates,
    find_lr,
    find_remarks,
    form_buckets,
    make_exact,
    output_regions,
    plan_epoch,
    plan_stream,
    predict,
    profile,
    resume,
    scan_source,
    train,
    undo_exact,
    verify_exact,
    write_report,
)

reveal_type(AugmentConfig)
reveal_type(BatchLoader)
reveal_type(Bucket)
reveal_type(Buckets)
reveal_type(BudgetError)
reveal_type(Choices)
reveal_type(ClassFigures)
reveal_type(ComparisonResult)
reveal_type(ConfigError)
reveal_type(CrossValidation)
reveal_type(DeviceConfig)
reveal_type(Duplicate)
reveal_type(EpochPlan)
reveal_type(Evaluation)
reveal_type(ExactError)
reveal_type(ExactnessErrors)
reveal_type(Fallback)
reveal_type(Geometry)
reveal_type(ImageError)
reveal_type(ImageOverBudgetError)
reveal_type(LearningRateConfig)
reveal_type(Limits)
reveal_type(MicroBatch)
reveal_type(ModelConfig)
reveal_type(OptimizerConfig)
reveal_type(PadCollate)
reveal_type(PaddedBatch)
reveal_type(PlanConfig)
reveal_type(PlanError)
reveal_type(Prediction)
reveal_type(Predictor)
reveal_type(Problem)
reveal_type(ProfileResult)
reveal_type(RankStep)
reveal_type(RateTest)
reveal_type(RegionPool)
reveal_type(Remark)
reveal_type(ResolutionConfig)
reveal_type(RunError)
reveal_type(SavingConfig)
reveal_type(Shape)
reveal_type(ShapeIndex)
reveal_type(SourceError)
reveal_type(SpatialPyramidPool)
reveal_type(StaleImageError)
reveal_type(Step)
reveal_type(StepLoader)
reveal_type(StepSampler)
reveal_type(Stopped)
reveal_type(TaskConfig)
reveal_type(TrainConfig)
reveal_type(UndecodableError)
reveal_type(UnsquareError)
reveal_type(UsageError)
reveal_type(Verification)
reveal_type(class_weights)
reveal_type(compare)
reveal_type(cross_validate)
reveal_type(evaluate)
reveal_type(find_duplicates)
reveal_type(find_lr)
reveal_type(find_remarks)
reveal_type(form_buckets)
reveal_type(make_exact)
reveal_type(output_regions)
reveal_type(plan_epoch)
reveal_type(plan_stream)
reveal_type(predict)
reveal_type(profile)
reveal_type(resume)
reveal_type(scan_source)
reveal_type(train)
reveal_type(undo_exact)
reveal_type(verify_exact)
reveal_type(write_report)

# Whole runs.
run = train("photos", "runs/photos", backbone="resnet18", epochs=20, memory="8GiB")
reveal_type(run)
reveal_type(train("photos", "runs/photos", TrainConfig(model=ModelConfig(backbone="resnet50"))))
reveal_type(resume(run, epochs=30))
reveal_type(find_lr("photos", num_steps=50, backbone="resnet18").suggested)
evaluation = evaluate(run, "photos", split="val")
reveal_type(evaluation)
reveal_type(evaluation.mean_per_class_accuracy)
predictions = predict(run, ["new/a.jpg", Image.new("RGB", (64, 48))], top=3)
reveal_type(predictions)
reveal_type(predictions[0].classes)
reveal_type(predictions[0].probabilities[0])
predictor = Predictor(run, memory="4GiB")
reveal_type(predictor)
reveal_type(predictor.classes)
reveal_type(predictor.classifier)
reveal_type(predictor.predict("new/a.jpg"))
reveal_type(predictor.evaluate("photos"))
found = profile("resnet18", canvas=(768, 1024), memory="4GiB")
reveal_type(found)
reveal_type(found.page)
reveal_type(found.sweep)
reveal_type(found.sweep.largest_images)
reveal_type(found.sweep.rows[0].peak_bytes)
reveal_type(found.attribution)
reveal_type(found.watch)
reveal_type(found.run)
compared = compare(run, "runs/large")
reveal_type(compared)
reveal_type(compared.plans[0].predicted_bytes)
reveal_type(write_report(run))
try:
    resume(run)
except Stopped as stopped:
    reveal_type(stopped.step)
except UnsquareError as error:
    reveal_type(error)

# Sources and plans.
index = scan_source("photos", choices=Choices(pages="first"), progress=lambda done, total: None)
reveal_type(index)
reveal_type(index.problems)
reveal_type(index.of_split("train"))
reveal_type(find_remarks(index))
geometry = Geometry(max_pixels=16_000_000)
sizes = geometry.resize(index.sizes)
reveal_type(sizes)
limits = Limits(budget_pixels=16_000_000, fallbacks=(Fallback(name="tile", most_pixels=64_000_000, price=1.5),))
buckets = form_buckets(sizes, PlanConfig(steps="b2b"), limits)
reveal_type(buckets)
reveal_type(class_weights(index.labels))
plan = plan_epoch(sizes, PlanConfig(step_images=32), limits, 0, buckets=buckets)
reveal_type(plan)
reveal_type(plan.steps[0])
reveal_type(list(plan.micro_batches))
reveal_type(plan.buckets)
reveal_type(plan_stream([(480, 640)], PlanConfig(), limits))

# A loop of one's own.
loader = BatchLoader(index, geometry, AugmentConfig(turns=True))
batch = next(loader.load(plan, plan.micro_batches))
reveal_type(batch)
reveal_type(batch.pixels)
reveal_type(batch.other_labels)


def darker(image: np.ndarray[Any, np.dtype[np.uint8]], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A function of one's own that changes pictures."""
    return image // 2


AugmentConfig(transform=darker)
AugmentConfig(transform="changes:darker", mixup=0.2)
sampler = StepSampler(sizes, PlanConfig(step_images=64), limits)
reveal_type(list(sampler))
reveal_type(sampler.canvases)
reveal_type(PadCollate()([(torch.ones(3, 48, 64), 0)])[:2])
dataset = torch.utils.data.TensorDataset(torch.ones(2, 3, 48, 64), torch.zeros(2))
steps = StepLoader(torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=PadCollate()))
for step in steps:
    reveal_type(step)
    reveal_type(step.weight)
    for _, is_last in step:
        reveal_type(is_last)

# Exact networks.
exact = make_exact(timm.create_model("resnet18"))
reveal_type(exact)
reveal_type(undo_exact(exact))
reveal_type(output_regions(exact, torch.tensor([[48, 64]])))
verification = verify_exact("resnet50", sizes=[(48, 64), (64, 48)])
reveal_type(verification)
reveal_type(verification.training)
reveal_type(SpatialPyramidPool(levels=(1, 2)).num_bins)
reveal_type(RegionPool("gem"))
reveal_type(unsquare.Shape(480, 640).pixels)

# Wrong calls: each must be an error, or mypy reports that the comment is not needed.
train(1, "runs/photos")  # type: ignore[arg-type]
train("photos")  # type: ignore[call-arg]
resume(run, epochs="30")  # type: ignore[arg-type]
evaluate(run, "photos", splits="val")  # type: ignore[call-arg]
predict(run, 3)  # type: ignore[arg-type]
predict(run, "a.jpg", on_error="ignore")  # type: ignore[arg-type]
profile("resnet18", canvas=512)  # type: ignore[arg-type]
compare(run)  # type: ignore[call-arg]
scan_source(None)  # type: ignore[arg-type]
plan_epoch(sizes, PlanConfig(), 64_000_000, 0)  # type: ignore[arg-type]
PlanConfig(steps="all")  # type: ignore[arg-type]
ModelConfig(backbone=50)  # type: ignore[arg-type]
TrainConfig(epochs=3)  # type: ignore[call-arg]
Geometry(16_000_000)  # type: ignore[call-arg]
BatchLoader("photos", geometry)  # type: ignore[arg-type]
AugmentConfig(transform=lambda image: image)  # type: ignore[arg-type,misc]
StepLoader(dataset)  # type: ignore[arg-type]
make_exact("resnet18")  # type: ignore[arg-type]
verify_exact("resnet18", dtype="float16")  # type: ignore[arg-type]
RegionPool("mean")  # type: ignore[arg-type]
largest = found.sweep.largest  # type: ignore[attr-defined]
found.page = run  # type: ignore[misc]
unsquare.train_all("photos")  # type: ignore[attr-defined]
