"""Which of timm's networks are exact: every model of every family is converted, and some of each are measured.

Conversion traces a network on the meta device, so no weights are needed. Measured are the errors of a batch padded with
NaN against the stock network on each image alone, outputs and gradients, in float64 and float32, in evaluation and
(with batch norm over the real pixels of all images) in training. Results are written to a JSON file as they come, and
the same command continues where it was stopped; the table in the documentation is made from that file.

    python benchmarks/exact_coverage.py benchmarks/results/exact_coverage-DATE.json --table docs/exact-coverage.md
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from unsquare.errors import ExactError, UnsquareError
from unsquare.exact import make_exact
from unsquare.exact.model import side_multiple
from unsquare.exact.verify.verification import verify_exact
from unsquare.torchvision_guard import import_timm

timm = import_timm()

HYBRIDS = {
    "byoanet", "cpubone", "csatv2", "davit", "edgenext", "efficientformer", "efficientformer_v2", "efficientvim",
    "efficientvit_mit", "efficientvit_msra", "fastvit", "iformer", "levit", "lowformer", "maxxvit", "mobilenetv5",
    "mobilevit", "nextvit", "repvit_hybrid", "sequencer", "shvit", "swiftformer", "tiny_vit", "visformer", "vitamin",
    "vision_transformer_hybrid", "coat", "crossvit",
}  # fmt: skip
"""Families that mix convolutions with attention (or recurrence, or state spaces) between pixels."""

TRANSFORMERS = {
    "beit", "cait", "convit", "deepseek_vit", "deit", "eva", "gcvit", "gemma4_vit", "hiera", "hieradet_sam2",
    "mlp_mixer", "mvitv2", "naflexvit", "nest", "pit", "pvt_v2", "qwen3_vit", "swin_transformer",
    "swin_transformer_v2", "swin_transformer_v2_cr", "tnt", "twins", "vision_transformer",
    "vision_transformer_relpos", "vision_transformer_sam", "volo", "xcit",
}  # fmt: skip
"""Families of patches and attention; not traced, since they are another kind of network."""

MEASURED_PARAMETERS = 140e6
MEASURED_PER_FAMILY = 1


def families() -> dict[str, list[str]]:
    """The names of timm's models by family, its own modules."""
    found = defaultdict(list)
    for name in timm.list_models():
        found[timm.models._registry._model_to_module[name]].append(name)
    return dict(sorted(found.items()))


def converted(name: str) -> dict[str, Any]:
    """Whether a model converts, and why not."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    size = sum(parameter.numel() for parameter in model.parameters())
    try:
        exact = make_exact(model)
    except ExactError as error:
        return {"parameters": size, "refused": str(error), "multiple": None}
    return {"parameters": size, "refused": None, "multiple": side_multiple(exact)}


def chosen(models: dict[str, dict[str, Any]]) -> list[str]:
    """A few models of a family to measure: its smallest, and others spread over its names."""
    fitting = [n for n, m in models.items() if m["refused"] is None and m["parameters"] <= MEASURED_PARAMETERS]
    ordered = sorted(fitting, key=lambda name: models[name]["parameters"])
    half = sorted(ordered[: max(MEASURED_PER_FAMILY, len(ordered) // 2)])
    spread = half[:: max(1, len(half) // MEASURED_PER_FAMILY)]
    return list(dict.fromkeys([*ordered[:1], *spread]))[:MEASURED_PER_FAMILY]


def measured(name: str) -> dict[str, Any]:
    """Errors of a model, by number type and mode."""
    errors: dict[str, Any] = {}
    for dtype in ("float64", "float32"):
        try:
            found = verify_exact(name, dtype=dtype)
        except UnsquareError as error:
            return {"failed": str(error)}
        errors[dtype] = found.to_dict()
    return errors


def table(results: dict[str, Any]) -> str:
    """The results as a page of the documentation."""
    by_family: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, model in results["models"].items():
        by_family[model["family"]][name] = model
    kinds = {False: "convolutions", True: "hybrid"}
    counts = {kind: Counter() for kind in kinds.values()}  # type: ignore[var-annotated]
    rows, refusals = [], []
    for family, models in sorted(by_family.items()):
        kind = kinds[family in HYBRIDS]
        exact = sum(model["refused"] is None for model in models.values())
        state = "exact" if exact == len(models) else "refused" if not exact else "in part"
        counts[kind][state] += 1
        counts[kind]["models"] += len(models)
        counts[kind]["exact models"] += exact
        measured = {name: model["errors"] for name, model in models.items() if "errors" in model}
        first, *others = [_measured(name, errors) for name, errors in measured.items()] or ["| | |"]
        multiples = {model["multiple"] for model in models.values()} - {None, 1}
        if multiples:
            state += f"; multiples of {' or '.join(map(str, sorted(multiples)))}"
        rows.append(f"| {family} | {kind} | {state} | {exact} of {len(models)} | {first}")
        rows.extend(f"| | | | | {other}" for other in others)
        for reason, names in sorted(_refusals(models).items()):
            few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            refusals.append(f"- **{family}** ({few}): {reason}.")
    plain = counts["convolutions"]
    families = plain["exact"] + plain["in part"] + plain["refused"]
    versions = results["versions"]
    return _PAGE.format(
        versions=f"timm {versions['timm']}, torch {versions['torch']}",
        exact=plain["exact"],
        families=families,
        part=plain["in part"],
        refused=plain["refused"],
        exact_models=plain["exact models"],
        models=plain["models"],
        hybrid_models=counts["hybrid"]["exact models"],
        hybrids=counts["hybrid"]["models"],
        measured=sum("errors" in model for model in results["models"].values()),
        rows="\n".join(rows),
        refusals="\n".join(refusals),
    )


_PAGE = """# Which networks are exact

Made by `benchmarks/exact_coverage.py` with {versions}. Of timm's {families} purely convolutional
families, {exact} are exact in every model, {part} in part, {refused} not at all ({exact_models} of
{models} models). Hybrids with attention between pixels are refused, except for their models without it
({hybrid_models} of {hybrids}). Networks with attention over patches only are not listed.

A model is exact if it converts: every operation in it is then known to give each image the same result as alone.
*Multiples of 32* marks families with models that join maps of different depths: the stock networks, too, take only
such heights and widths, and `unsquare train`, whose pictures come in every size, refuses them.

A model of each family is measured as well ({measured} in all): a batch padded with NaN against the stock model on each
image alone. Given is the larger of the errors of the outputs and of the worst parameter's gradient, relative to the
largest value (`unsquare verify-exact`). In training, batch norms take their statistics over the real pixels of all
images, in the reference too. *Rounding* is how far the reference's own outputs and gradients move, in training, when
each pixel changes by the spacing of its numbers: no computation in that arithmetic is more accurate. It is large for
deep networks with random weights, and in float32 a ReLU within rounding of zero may open in one run and not in the
other: judge in float64.

| family | kind | status | models exact | measured | float64: evaluation, training (rounding) | float32: the same |
|---|---|---|---|---|---|---|
{rows}

## Refused

{refusals}
"""


def _measured(name: str, errors: dict[str, Any]) -> str:
    if "failed" in errors:
        return f"{name} | {errors['failed']} | |"
    return f"{name} | {_numbers(errors['float64'])} | {_numbers(errors['float32'])} |"


def _numbers(found: dict[str, Any]) -> str:
    """The larger of the errors of outputs and gradients, in evaluation and in training, and the latter's rounding."""
    evaluation, training = found["evaluation"], found["training"]
    errors = [max(mode["outputs"], mode["gradients"]) for mode in (evaluation, training)]
    rounding = max(training["own_outputs"], training["own_gradients"])
    return f"{errors[0]:.0e}, {errors[1]:.0e} ({rounding:.0e})"


def _refusals(models: dict[str, Any]) -> dict[str, list[str]]:
    """The refused models by the class of the module at fault and the reason."""
    found = defaultdict(list)
    for name, model in models.items():
        if model["refused"] is not None:
            where, refused, reason = model["refused"].partition(" cannot be ")
            reason = reason.partition(": ")[2].split(". Use a ")[0].split(" on a canvas")[0]
            if not refused:
                where, _, reason = model["refused"].partition(" fails on a canvas ")
                reason = f"it fails on canvases of other sizes ({reason.partition(': ')[2].partition('. Check')[0]})"
            module = where.split(" of ")[0].rpartition("(")[2].rstrip(")")
            found[f"{module}: {reason}"].append(name)
    return found


def keep(path: Path, results: dict[str, Any]) -> None:
    """Write the results so far."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(results, indent=1) + "\n")
    aside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", type=Path, help="write the table here")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = json.loads(given.results.read_text()) if given.results.exists() else {}
    results["versions"] = {"torch": torch.__version__, "timm": timm.__version__}
    models = results.setdefault("models", {})
    for family, names in families().items():
        if family in TRANSFORMERS:
            continue
        for name in names:
            if name not in models:
                models[name] = {"family": family, **converted(name)}
        keep(given.results, results)
        print(f"{family}: {sum(models[n]['refused'] is None for n in names)} of {len(names)} convert", flush=True)
    if given.table is not None:  # so far; again at the end
        given.table.write_text(table(results))
    for family, names in families().items():
        for name in chosen({n: models[n] for n in names if n in models}):
            if "errors" not in models[name]:
                models[name]["errors"] = measured(name)
                keep(given.results, results)
                print(f"{family}: {name} {models[name]['errors']}", flush=True)
                gc.collect()
    if given.table is not None:
        given.table.write_text(table(results))


if __name__ == "__main__":
    main()
