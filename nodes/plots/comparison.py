"""The differences between two batches of pictures: scores, a report and a side-by-side."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...sv_core.fidelity import psnr, ssim
from . import colours
from .canvas import Canvas

SSIM_WINDOW = 11
"""The width of SSIM's window, in pixels: the smallest picture for which it is defined."""
PANEL, CAPTION, GAP = 384, 36, 8
"""Pixels: the smallest width of a panel, the height of a caption, the space between panels."""
TALLEST = 2048
"""Pixels: no picture is enlarged beyond this height."""


class Scores(NamedTuple):
    """PSNR and SSIM of two batches: for each picture, and for all of them together."""

    psnr: list[float]
    ssim: list[float] | None
    """None where the pictures are smaller than SSIM's window."""
    psnr_all: float
    largest: float
    """The largest difference of a value; between black and white it is 1."""

    @property
    def ssim_all(self) -> float:
        """SSIM as a mean over the batch; nan where it is not defined."""
        return math.nan if self.ssim is None else sum(self.ssim) / len(self.ssim)


def score(reference: Tensor, candidate: Tensor) -> Scores:
    """PSNR and SSIM of two IMAGE batches (b, h, w, c), one picture at a time to save memory."""
    mses, ssims, largest = [], [], 0.0
    for a, b in zip(reference, candidate, strict=True):
        a, b = (t.movedim(-1, 0)[None].float() for t in (a, b))
        mses.append(psnr(a.double(), b.double()))  # the square of 1e30 is no float32
        largest = max(largest, float((a - b).abs().max()))
        if min(a.shape[2:]) >= SSIM_WINDOW:
            ssims.append(float(ssim(a, b)))
    each = torch.cat(mses)
    whole = -10 * torch.log10((10 ** (-each / 10)).mean())  # from the mean of the squared errors
    return Scores(each.tolist(), ssims or None, float(whole), largest)


def score_text(psnr_db: float, similarity: float) -> str:
    """PSNR, and SSIM where it is defined, as one line."""
    if psnr_db == math.inf:
        return "identical (PSNR is infinite)"
    words = f"PSNR {psnr_db:.2f} dB"
    return words if math.isnan(similarity) else f"{words}, SSIM {similarity:.4f}"


def report_scores(scores: Scores, gain: float, size: str) -> str:
    """All scores as text, one line for each picture; ``size`` is theirs, such as 8 x 8."""
    similarities = scores.ssim or [math.nan] * len(scores.psnr)
    pairs = zip(scores.psnr, similarities, strict=True)
    lines = [f"picture {i}: {score_text(*pair)}" for i, pair in enumerate(pairs, 1)]
    if len(lines) > 1:
        lines.append(f"all {len(lines)} together: {score_text(scores.psnr_all, scores.ssim_all)}")
    if scores.ssim is None:
        lines.append(f"no SSIM: it needs {SSIM_WINDOW} pixels a side, these pictures are {size}")
    if scores.largest:
        lines.append(
            f"largest difference of a value: {scores.largest:.3g} (black against white is 1)"
        )
        lines.append(f"the difference picture shows differences x {gain:g}")
    return "\n".join(lines)


def choose_gain(largest: float) -> float:
    """The largest power of two up to 256 with which no amplified difference exceeds 1."""
    return 2.0 ** max(0, min(8, math.floor(-math.log2(largest)))) if largest else 1.0


def panel(image: Tensor) -> Tensor:
    """A picture (h, w, c), enlarged by a whole factor to PANEL pixels or TALLEST: (h', w', 3).

    One that stays narrower than PANEL gets a white margin.
    """
    image = image[..., :3].float().cpu()
    if image.shape[-1] < 3:
        image = image[..., :1].expand(-1, -1, 3)
    zoom = min(math.ceil(PANEL / image.shape[1]), max(1, TALLEST // image.shape[0]))
    image = image.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    return F.pad(image, (0, 0, 0, max(0, PANEL - image.shape[1])), value=1.0)


def caption(width: int, text: str) -> Tensor:
    """A line of text as a picture: (CAPTION, width, 3)."""
    canvas = Canvas(width, CAPTION)
    canvas.text(8, CAPTION / 2, text, 18, colours.TEXT, "lm")
    return canvas.tensor()


def side_by_side(
    reference: Tensor, candidate: Tensor, difference: Tensor, scores: Scores, gain: float
) -> Tensor:
    """Reference, candidate and difference with captions, one row per picture: (b, h, w, 3)."""
    similarities = scores.ssim or [math.nan] * len(scores.psnr)
    rows = []
    for i, images in enumerate(zip(reference, candidate, difference, strict=True)):
        words = score_text(scores.psnr[i], similarities[i])
        captions = ("reference", f"candidate: {words}", f"difference x {gain:g}")
        if scores.psnr[i] == math.inf:
            captions = ("reference", "candidate: identical", "no difference")
        panels = [panel(image) for image in images]
        columns = [
            torch.cat([caption(p.shape[1], text), p])
            for p, text in zip(panels, captions, strict=True)
        ]
        gap = torch.ones(len(columns[0]), GAP, 3)
        rows.append(torch.cat([columns[0], gap, columns[1], gap, columns[2]], dim=1))
    return torch.stack(rows)
