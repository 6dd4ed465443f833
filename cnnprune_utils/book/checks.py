"""Checks of the functions that a reader fills in under "Your turn": one for each, named after what it checks.

A check prints one line, and raises nothing because an answer is wrong. The line begins with "not filled in yet" where
the function returns ``...`` or nothing, with "not yet" where it returns something wrong, and with "right" otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Check:
    """What a reader's function should give, and what to say of mistakes.

    Args:
        start: the hint while nothing is filled in.
        cases: arguments, the right answer, and both in words.
        mistakes: wrong functions that readers write, each with its hint.
        otherwise: the hint for any other wrong answer.
        right: what is said at the end.
    """

    start: str
    cases: Sequence[tuple[tuple[Any, ...], Any, str]]
    mistakes: Sequence[tuple[Callable[..., Any], str]]
    otherwise: str
    right: str

    def __call__(self, yours: Callable[..., Any]) -> None:
        """Print one line on the function ``yours``."""
        for given, expected, told in self.cases:
            answer = yours(*given)
            if answer is ... or answer is None:
                print(f"not filled in yet. Hint: {self.start}")
                return
            if not _equal(answer, expected):
                hints = (hint for wrong, hint in self.mistakes if _equal(answer, wrong(*given)))
                print(f"not yet: {told}. Hint: {next(hints, self.otherwise)}")
                return
        print(f"right: {self.right}")


def _equal(answer: Any, expected: Any) -> bool:
    """Whether an answer, of whatever type, has these numbers in this shape."""
    try:
        found = torch.as_tensor(answer, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        return False
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4)


# --- chapter 1 ---

convolution_parameters = Check(
    start="nine weights for each channel that a filter reads, one bias, and all that for each filter.",
    cases=[((2, 1), 20, "2 filters that read 1 channel have 20"), ((4, 2), 76, "4 filters that read 2 have 76")],
    mistakes=[
        (lambda filters, channels: 9 * filters * channels, "every filter has a bias as well."),
        (lambda filters, channels: 9 * filters * channels + 1, "every filter has a bias, not every layer."),
    ],
    otherwise="one filter has 9 * channels weights and a bias.",
    right="20 for the first convolution, 76 for the second.",
)
gone_with = Check(
    start="its own weights and bias, and 784 weights of the linear layer for each of the ten classes.",
    cases=[
        ((1,), 7877, "with one filter 7,877 parameters are removed"),
        ((5,), 39385, "with five, five times as many"),
    ],
    mistakes=[
        (lambda n: 7840 * n, "these are the linear layer's; the filter has 37 of its own."),
        (lambda n: 37 * n, "these are the filter's own; the linear layer reads its map."),
        (lambda n: (37 + 784) * n, "784 weights for each of ten classes."),
    ],
    otherwise="a filter has 9 * 4 + 1 parameters, and its map feeds 10 * 784.",
    right="7,877 with each filter: 37 of its own, 7,840 of the linear layer.",
)

# --- chapter 2 ---

expected_change = Check(
    start="the slope is 2 * y * part, and the gate goes down from 1 to 0.",
    cases=[
        ((0.2, 0.95), -0.46, "for the part 0.2 and the rest 0.95 the slope promises -0.46"),
        ((-0.05, 1.2), 0.115, "for B, part -0.05 and rest 1.2, it promises +0.115"),
    ],
    mistakes=[
        (lambda part, rest: 2 * (rest + part) * part, "that is the slope itself; the gate goes down, from 1 to 0."),
        (
            lambda part, rest: rest**2 - (rest + part) ** 2,
            "that is the true change; the promise knows only the slope at 1.",
        ),
        (lambda part, rest: -0.46, "right for A; use both arguments."),
    ],
    otherwise="the slope is 2 * y * part, and y is rest + part while the gate is open.",
    right="closing A promises to lower the loss by 0.46, and closing B to raise it by 0.115.",
)
taylor_score = Check(
    start="the size of each slope, then the mean over the images (dimension 0), then / M.",
    cases=[
        (
            (torch.tensor([[0.5, 0.1], [-0.5, 0.1], [0.5, 0.1], [-0.5, 0.1]]), 2),
            [0.25, 0.05],
            "with 2 positions, slopes of +0.5 and -0.5 score 0.25, and slopes of 0.1 score 0.05",
        )
    ],
    mistakes=[
        (lambda slopes, m: slopes.mean(0) / m, "the slopes have cancelled; their sizes come before the mean."),
        (lambda slopes, m: slopes.mean(0).abs() / m, "the slopes have cancelled; their sizes come before the mean."),
        (lambda slopes, m: slopes.abs().mean(0), "divide by the number of positions."),
        (lambda slopes, m: slopes.abs().mean(1) / m, "the mean is over the images, dimension 0."),
    ],
    otherwise="slopes.abs() has the sizes.",
    right="+0.5 and -0.5 cancel in the mean, and still their filter has the higher score.",
)

# --- chapter 3 ---

divide_by_norm = Check(
    start="the norm is the square root of the sum of the squares.",
    cases=[
        ((torch.tensor([3.0, 4.0]),), [0.6, 0.8], "scores 3 and 4 become 0.6 and 0.8"),
        ((torch.tensor([30.0, 40.0, 0.0]),), [0.6, 0.8, 0.0], "scores 30, 40 and 0 become 0.6, 0.8 and 0"),
    ],
    mistakes=[
        (lambda scores: scores / scores.sum(), "that is the sum; square first, and take the root of the sum."),
        (lambda scores: scores / scores.max(), "that is the largest score."),
        (lambda scores: scores / scores.square().sum(), "the square root is missing."),
    ],
    otherwise="scores.square().sum().sqrt() is the norm.",
    right="a factor that all scores share drops out: 3 and 4 become what 30 and 40 become.",
)
is_dead = Check(
    start="a filter is dead where its highest output, over images and positions, is not above zero.",
    cases=[
        (
            (torch.tensor([[[[-1.0, -2.0]], [[-9.0, 0.5]]], [[[-3.0, 0.0]], [[-9.0, -9.0]]]]),),
            [True, False],
            "the first filter never gets above 0, the second does, at one position of one image",
        )
    ],
    mistakes=[
        (lambda outputs: outputs.mean((0, 2, 3)) <= 0, "one position of one image above zero is enough to live."),
        (lambda outputs: outputs.amax((0, 2, 3)) < 0, "an output of exactly zero does not pass a ReLU either."),
        (lambda outputs: outputs.amax((0, 2, 3)) > 0, "these are the living ones."),
        (lambda outputs: outputs.amax((2, 3)) <= 0, "over the images, too: dimension 0."),
    ],
    otherwise="outputs.amax((0, 2, 3)) is the highest output of each filter.",
    right="below zero everywhere is dead; a single spark is alive.",
)

# --- chapter 4 ---

columns_of = Check(
    start="maps stand one after the other, each with as many numbers as it has positions.",
    cases=[
        ((0, 4), [0, 1, 2, 3], "with 4 positions, filter 0 owns the columns 0 to 3"),
        ((2, 4), [8, 9, 10, 11], "with 4 positions, filter 2 owns the columns 8 to 11"),
    ],
    mistakes=[
        (lambda k, n: [*range((k - 1) * n, k * n)], "filters are counted from 0."),
        (lambda k, n: [*range(k, k + n)], "the filters before it have n columns each."),
        (lambda k, n: [*range(k * n, (k + 1) * n + 1)], "range does not include its end."),
    ],
    otherwise="it begins at k * positions.",
    right="filter k owns the columns from k * positions on.",
)
cut = Check(
    start="first choose rows, then choose columns of what is left.",
    cases=[
        (
            (torch.arange(12.0).reshape(3, 4), [0, 2], [1, 3]),
            [[1, 3], [9, 11]],
            "rows 0 and 2, columns 1 and 3 of a 3 x 4 weight are [[1, 3], [9, 11]]",
        )
    ],
    mistakes=[
        (lambda weight, rows, columns: weight[rows, columns], "[rows, columns] asks for pairs; index twice."),
        (lambda weight, rows, columns: weight[:, columns], "the rows are all there still."),
        (lambda weight, rows, columns: weight[rows], "the columns are all there still."),
    ],
    otherwise="weight[rows] has the rows; [:, columns] chooses columns.",
    right="rows are filters, columns are what they read.",
)

# --- chapter 5 ---

share_made_good = Check(
    start="what came back, divided by what had been lost.",
    cases=[
        ((90.0, 70.0, 85.0), 0.75, "from 90 to 70, and back to 85, is three quarters"),
        ((90.0, 70.0, 65.0), -0.25, "from 90 to 70, and on to 65, is minus one quarter"),
    ],
    mistakes=[
        (lambda before, cut, after: (before - after) / (before - cut), "that is the share still missing."),
        (lambda before, cut, after: after / before, "count from the cut network, not from zero."),
        (lambda before, cut, after: after - cut, "these are points; divide by the points that had been lost."),
    ],
    otherwise="it lost before - cut.",
    right="0.75: of 20 points lost, 15 are back.",
)
mean_interval = Check(
    start="the mean, minus and plus t times the standard error, which is differences.std() / 5 ** 0.5.",
    cases=[
        (
            (torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), 2.776),
            [3 - 2.776 * 0.5**0.5, 3 + 2.776 * 0.5**0.5],
            "1, 2, 3, 4, 5 have the mean 3 and the standard error 0.71, so their interval is 1.04 to 4.96",
        )
    ],
    mistakes=[
        (lambda d, t: [d.mean() - t * d.std(), d.mean() + t * d.std()], "divide by the root of 5: it is the mean's."),
        (
            lambda d, t: [d.mean() - t * d.std(correction=0) / 5**0.5, d.mean() + t * d.std(correction=0) / 5**0.5],
            "the mean is estimated from the five as well: std() as it comes.",
        ),
        (lambda d, t: [d.mean() - d.std() / 5**0.5, d.mean() + d.std() / 5**0.5], "that is one standard error."),
    ],
    otherwise="return the two ends: [mean - half, mean + half].",
    right="from 1.04 to 4.96; it does not contain 0.",
)

# --- chapter 6 ---

half_interval = Check(
    start="1.96 times the square root of p (1 - p) / n.",
    cases=[
        ((0.9, 10_000), 1.96 * 0.003, "for 90 % of 10,000 images it is 0.00588"),
        ((0.5, 400), 1.96 * 0.025, "for half of 400 images it is 0.049"),
    ],
    mistakes=[
        (lambda p, n: (p * (1 - p) / n) ** 0.5, "that is one standard error; a 95 % interval reaches 1.96 of them."),
        (lambda p, n: 1.96 * p * (1 - p) / n, "the square root is missing."),
        (lambda p, n: 2 * 1.96 * (p * (1 - p) / n) ** 0.5, "to each side, not from end to end."),
    ],
    otherwise="p * (1 - p) / n is the square of the standard error.",
    right="six tenths of a point for 90 % of 10,000.",
)
multiplications = Check(
    start="nine for each channel that is read, for each filter, at each position.",
    cases=[
        ((2, 1, 784), 14_112, "2 filters that read 1 channel at 784 positions make 14,112"),
        ((8, 4, 784), 225_792, "8 filters that read 4 channels make 225,792"),
    ],
    mistakes=[
        (lambda filters, channels, positions: 9 * filters * positions, "each filter reads all channels."),
        (lambda filters, channels, positions: 9 * filters * channels, "that is at one position."),
        (lambda filters, channels, positions: filters * channels * positions, "a 3 x 3 kernel has nine weights."),
    ],
    otherwise="four factors.",
    right="the third convolution does sixteen times the work of the first.",
)

# --- chapter 7 ---

second_order = Check(
    start="minus the slopes of the closed gates, plus half of all the bends between them.",
    cases=[
        (
            (torch.tensor([0.5, 0.2, 0.1]), torch.tensor([[1.0, 0.4, 0.0], [0.4, 2.0, 0.0], [0.0, 0.0, 3.0]]), [0, 1]),
            1.2,
            "closing 0 and 1 promises -0.7 + (1 + 0.4 + 0.4 + 2) / 2 = 1.2",
        )
    ],
    mistakes=[
        (lambda s, bends, c: -s[c].sum(), "that is the first order; add half of the bends."),
        (lambda s, bends, c: -s[c].sum() + bends[c][:, c].sum(), "half of the bends."),
        (lambda s, bends, c: -s[c].sum() + bends.diag()[c].sum() / 2, "the pairs are missing: k and l, twice each."),
        (lambda s, bends, c: s[c].sum() + bends[c][:, c].sum() / 2, "closing goes down the slope: minus."),
        (lambda s, bends, c: -s[c].sum() + bends.sum() / 2, "only of the gates that close."),
    ],
    otherwise="bends[closed][:, closed] has the bends of the gates that close.",
    right="the pair adds 0.4 that no price of a single filter has.",
)
old_number = Check(
    start="write down the old numbers that are left, in order; the answer is number k of them.",
    cases=[
        ((2, [0, 3]), 4, "with 0 and 3 removed, 1, 2, 4, 5, ... are left, and number 2 of them was 4"),
        ((0, [3]), 0, "with 3 removed, number 0 is still 0"),
        ((1, [2, 1]), 3, "with 2 and 1 removed, number 1 was 3"),
    ],
    mistakes=[
        (lambda k, gone: k, "the filters behind a removed one have moved down."),
        (lambda k, gone: k + len(gone), "only removed filters in front of it count."),
        (
            lambda k, gone: k + sum(old <= k for old in gone),
            "a removed filter counts if it stands before the old number, not before the new one.",
        ),
    ],
    otherwise="[n for n in range(100) if n not in gone] are the old numbers that are left.",
    right="number 2 of what is left was filter 4.",
)

# --- chapter 8 ---

passes_needed = Check(
    start="one pass for each set of filters in all layers but the last; the last needs sums only.",
    cases=[
        (((2, 4, 8),), 64, "widths 2, 4 and 8 need 64 passes"),
        (((2, 4, 9),), 64, "a ninth filter in the last layer needs no pass more"),
        (((3, 4, 8),), 128, "a third filter in the first layer doubles the passes"),
    ],
    mistakes=[
        (lambda widths: 2 ** sum(widths), "the last layer's contributions only have to be added up."),
        (lambda widths: widths[0] * widths[1], "every filter stays or is removed: powers of two."),
    ],
    otherwise="2 ** n sets for n filters.",
    right="64, and 256 sums after each.",
)
share_not_better = Check(
    start="the share of the rivals whose accuracy is not above yours, times 100.",
    cases=[
        ((0.5, torch.tensor([0.1, 0.2, 0.5, 0.5, 0.9])), 80, "of 0.1, 0.2, 0.5, 0.5, 0.9, four are not above 0.5: 80"),
        ((0.9, torch.tensor([0.1, 0.2, 0.5, 0.5, 0.9])), 100, "the best has 100"),
    ],
    mistakes=[
        (lambda mine, rivals: 100 * (rivals < mine).double().mean(), "ties count: not more accurate is <=."),
        (lambda mine, rivals: (rivals <= mine).double().mean(), "times 100."),
        (lambda mine, rivals: 100 * (rivals > mine).double().mean(), "these are the better ones."),
    ],
    otherwise="(rivals <= mine) is True where a rival is not better.",
    right="the best has 100, also when it ties.",
)

# --- chapter 9 ---

norm_with_zeros = Check(
    start="as in chapter 3, but a layer of zeros stays zero.",
    cases=[
        ((torch.tensor([3.0, 4.0]),), [0.6, 0.8], "scores 3 and 4 become 0.6 and 0.8"),
        ((torch.zeros(2),), [0.0, 0.0], "zeros stay zeros, and do not become NaN"),
        ((torch.tensor([3e-9, 4e-9]),), [0.6, 0.8], "tiny scores, 3e-9 and 4e-9, become 0.6 and 0.8 as well"),
    ],
    mistakes=[
        (lambda s: s / (s.norm() + 1e-8), "what is added to the norm is large beside a tiny norm."),
        (lambda s: s / s.norm().clamp(min=1e-8), "a floor under the norm is too high for tiny scores."),
        (lambda s: s, "divide where the norm is not zero."),
    ],
    otherwise="0 / 0 is NaN; ask for the norm first.",
    right="no division where there is nothing to divide.",
)
share_of_last_batches = Check(
    start="each batch keeps 1 - momentum of what was there; what is not old is new.",
    cases=[
        ((10, 0.1), 1 - 0.9**10, "after ten batches with a momentum of 0.1 it is 0.65"),
        ((1, 0.25), 0.25, "after one batch it is the momentum"),
    ],
    mistakes=[
        (lambda n, momentum: n * momentum, "the early batches fade, too."),
        (lambda n, momentum: (1 - momentum) ** n, "that is what is left of the old statistics."),
    ],
    otherwise="(1 - momentum) ** n of the old is left.",
    right="65 % after ten batches.",
)

# --- chapter 10 ---

divide_by_mean = Check(
    start="divide by the mean of the scores; they are sizes, so none is negative.",
    cases=[
        ((torch.tensor([1.0, 1.0, 1.0, 3.0]),), [2 / 3, 2 / 3, 2 / 3, 2.0], "scores 1, 1, 1, 3 become 0.67 and 2"),
        ((torch.tensor([1.0, 3.0]).repeat(4),), [0.5, 1.5] * 4, "scores 1 and 3, four times over, become 0.5 and 1.5"),
    ],
    mistakes=[
        (lambda scores: scores / scores.norm(), "that is the norm, which grows with the number of filters."),
        (lambda scores: scores / scores.sum(), "the sum grows with the number of filters, even faster than the norm."),
        (lambda scores: scores - scores.mean(), "divide by the mean."),
    ],
    otherwise="scores.mean() is the mean.",
    right="a layer with four times as many filters keeps its values.",
)
one_vote = Check(
    start="the sizes of the slopes, each row divided by its sum; then the mean over the images (dimension 0).",
    cases=[
        (
            (torch.tensor([[0.001, 0.0], [-0.002, 0.03]]),),
            [0.53125, 0.46875],
            "slopes (0.001, 0) and (-0.002, 0.03) give 0.53 and 0.47",
        ),
        (
            (torch.tensor([[0.0, 0.0], [1.0, -1.0]]),),
            [0.25, 0.25],
            "an image without slopes votes for nobody, so (0, 0) and (1, -1) give 0.25 and 0.25, where 0 / 0 is NaN",
        ),
    ],
    mistakes=[
        (lambda slopes: slopes.abs().mean(0), "these are the mean sizes; divide each row by its sum first."),
        (lambda slopes: slopes.abs() / slopes.abs().sum(1, keepdim=True), "these are the votes; take their mean."),
        (
            lambda slopes: (slopes.abs() / slopes.abs().sum(0)).mean(0),
            "each image has one vote, so the sum is over the filters: dimension 1.",
        ),
        (lambda slopes: (slopes / slopes.sum(1, keepdim=True)).mean(0), "the sizes of the slopes, before the sum."),
        (lambda slopes: (slopes.abs() / slopes.abs().sum(1, keepdim=True)).sum(0), "the mean, not the sum."),
    ],
    otherwise="slopes.abs().sum(1, keepdim=True).clamp(min=1e-30) has the sum of each row, shape (images, 1).",
    right="trousers and shirt have one vote each.",
)
