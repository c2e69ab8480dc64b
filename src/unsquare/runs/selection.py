"""Which figures of a run are optimistic because the same images chose the weights.

The best of n epochs on some images is above what these weights reach on new ones, the more so the fewer the images.
The last epoch is no choice: its figure stands beside the best one wherever that is said. Only its size may have been
chosen on these images, where pictures grow while that is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unsquare.runs.figures import describe
from unsquare.runs.rows import EvaluationRow


@dataclass(frozen=True)
class BestOfSeveral:
    """The best of several evaluations on the same images, and the last one."""

    num_epochs: int
    """Epochs that were evaluated."""
    last: EvaluationRow
    best: EvaluationRow
    sizes: bool = False
    """Whether the size of pictures was chosen, too."""
    last_size: bool = False
    """Whether the last epoch's size was chosen on these images, before it was trained."""

    @property
    def is_last(self) -> bool:
        """Whether the best weights are those of the last epoch, which may still be used at another size."""
        return self.best.step == self.last.step

    @property
    def words(self) -> str:
        """One sentence."""
        several = ["several sizes of pictures"] if self.sizes else []
        if self.num_epochs > 1:
            several.insert(0, f"{self.num_epochs} epochs")
        best = f"The best of {' and of '.join(several)} on the same images is optimistic"
        if self.is_last and not self.sizes:
            return f"{best}; here it is the last one."
        last = ["the last epoch"]
        if self.is_last:
            last.append("the same weights on pictures of its own size")
        if self.last_size:
            last.append("whose size was chosen on them as well")
        comma = "," if len(last) > 1 else ""
        return f"{best}; {', '.join(last)}{comma} has {describe(self.last.figures)}."


def best_of_several(evals: Sequence[EvaluationRow], split: str, *, sizes: bool = False) -> BestOfSeveral | None:
    """How the weights were chosen on a split; None where they were not chosen on it, or there was no choice.

    Args:
        evals: the evaluations in the course of training, in order.
        split: the split that is judged.
        sizes: whether the size of pictures was chosen as well, as it is after progressive resolution.
    """
    chosen = [row for row in evals if row.split == split]
    if len(chosen) < 2 and not (sizes and chosen):
        return None
    best = best_of(chosen)
    assert best is not None, "there are several"
    return BestOfSeveral(len(chosen), chosen[-1], best, sizes, last_size=_got_smaller(chosen))


def _got_smaller(evals: Sequence[EvaluationRow]) -> bool:
    """Whether the last size is below an earlier one: sizes grow, unless smaller ones did better on val."""
    *earlier, last = (row.max_pixels for row in evals)
    return last is not None and any(size is None or size > last for size in earlier)


def best_of(evals: Sequence[EvaluationRow]) -> EvaluationRow | None:
    """The evaluation that chooses the best weights: the highest score (`figures.score_of`), of equals the lowest loss.

    On few images equal accuracies are frequent, and the loss still tells them apart; of equals in both, the later.
    """
    return max(evals, key=lambda row: (row.score, -row.loss, row.step), default=None)


def caution(
    own_splits: Sequence[str], evals: Sequence[EvaluationRow], *, sizes: bool = False, num_known: int = 0
) -> tuple[str, BestOfSeveral | None]:
    """Why figures on these images are optimistic, in one sentence that is empty where they are not.

    Args:
        own_splits: the split of each image in the run that is judged; "" for images that the run never saw.
        evals: the run's evaluations in the course of training.
        sizes: whether the size of pictures was chosen on val, too.
        num_known: how many images trained the weights that the run started from.

    Returns:
        The sentence, and the choice among epochs where that is the reason.
    """
    total, trained = len(own_splits), sum(split == "train" for split in own_splits)
    if trained:
        which = "The run was trained on all" if trained == total else f"The run was trained on {trained:,}"
        return f"{which} of these {total:,} images, so the figures say little about new ones.", None
    if num_known:
        which = "all" if num_known == total else f"{num_known:,}"
        words = f"The run started from weights that were trained on {which} of these {total:,} images"
        return f"{words}, so the figures say little about new ones.", None
    chosen = best_of_several(evals, "val", sizes=sizes) if "val" in own_splits else None
    return (chosen.words, chosen) if chosen else ("", None)
