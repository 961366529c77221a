"""The grids of the SIGMAS nodes: presets, thinning, two experts, and the calls saved."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..sv_core.errors import InvalidInput
from ..sv_core.models import families
from ..sv_core.models.family import Family
from ..sv_core.schedules import low_count, qwen_grid, qwen_mu, regime_split, split_index, with_node
from .checks import PAPER_SPLIT, require_boundary, require_latent, require_split
from .grid_check import require_flow_grid
from .host import flow
from .host.exploding import sigmas_at, times

MANUAL, AUTO = "manual", "auto"
"""The presets beside those of the families."""


class Thinning(NamedTuple):
    """Which steps of a grid are kept, see ``regime_split``; the defaults are the paper's."""

    split: float = PAPER_SPLIT
    low_steps: int = 9
    rule: str = "flow_match"


class Setting(NamedTuple):
    """How a grid is made and thinned; the defaults are the paper's."""

    scheduler: str | None
    """The host's, or None for Qwen-Image's own grid, which no host scheduler makes."""
    steps: int = 30
    thinning: Thinning = Thinning()

    def __str__(self) -> str:
        grid = f"scheduler {self.scheduler}" if self.scheduler else "Qwen-Image's own grid"
        split, low_steps, rule = self.thinning
        return f"{grid}, {self.steps} steps, split {split:g}, {low_steps} low steps, rule {rule}"


FEWEST_STEPS = 10
"""Of a template whose grid is worth thinning."""


def _template_of(family: Family) -> Setting | None:
    """The official workflow's grid, thinned as the paper thins 30 steps."""
    template = family.template
    if template is None or template.scheduler is None or template.steps < FEWEST_STEPS:
        return None
    low_steps = round(template.steps * Thinning().low_steps / Setting("").steps)
    return Setting(template.scheduler, template.steps, Thinning(low_steps=low_steps))


def _setting(family: Family | None) -> Setting | None:
    if family is None or family.sampling is None:
        return family and _template_of(family)
    grid = family.sampling
    thinning = Thinning(grid.split, grid.low_steps, grid.rule)
    return Setting(grid.scheduler, grid.steps, thinning)


def preset_names() -> list[str]:
    """The families for which the paper has a setting, then those with an official workflow."""
    paper = families.having("sampling")
    others = [f for f in families.having("template") if f.sampling is None and _template_of(f)]
    return [family.name for family in (*paper, *others)]


def setting_of(name: str) -> tuple[str, Setting]:
    """A family's name and the paper's or its template's setting, by any of its spellings.

    Older workflows contain Wan2.2, which is one setting for both of its models. Raises InvalidInput
    for a name without a setting.
    """
    family = families.find(name)
    setting = _setting(family)
    if family is None or setting is None:
        raise InvalidInput(
            f"there is no preset {name!r:.60}: choose {AUTO}, {', '.join(preset_names())} or "
            f"{MANUAL}"
        )
    return family.name, setting


def read_from_model(model: Any) -> tuple[str, Setting]:
    """The preset of a MODEL's family, and how it was chosen, for the report.

    A shift that the user has set with a ModelSampling node takes precedence over the preset's grid.
    """
    family = flow.family(model)
    setting = _setting(family)
    if family is None or setting is None:
        return f"{AUTO}, a model outside the paper", Setting("simple")
    name = family.name if family.sampling else f"{family.name} as in its official workflow"
    if setting.scheduler is None and flow.has_own_shift(model):
        return f"{AUTO}, {name} with the shift of its node", setting._replace(scheduler="simple")
    return f"{AUTO}, {name}", setting


def native_grid(model: Any, setting: Setting, denoise: float, latent: dict | None) -> Tensor:
    """The grid before thinning, in times of the linear path: (steps+1,), or (0,) for denoise 0.

    Shortened for image to image. A scheduler of the host may repeat a noise level where its steps
    are very many.
    """
    model_sampling = flow.model_sampling_of(model)
    if setting.scheduler is None:
        flow.require_linear_flow(model_sampling)
        return qwen_sigmas(setting.steps, denoise, latent)
    sigmas = flow.host_grid(model, setting.scheduler, setting.steps, denoise)
    if len(sigmas):
        highest = flow.highest_sigma(model_sampling)
        name = f"the grid of {setting.scheduler}"
        require_flow_grid(sigmas, name, highest=highest, repeats=True)
    return times(model_sampling, sigmas)


def qwen_sigmas(steps: int, denoise: float, latent: dict | None) -> Tensor:
    """Qwen-Image's own grid for the size of a latent, without one for 1024 x 1024."""
    if denoise <= 0:
        return torch.zeros(0)
    total = flow.total_steps(steps, denoise)
    if latent is None:
        whole = qwen_grid(total)
    else:
        require_latent(latent)
        height, width = latent["samples"].shape[-2:]  # two by two latent pixels are a token
        whole = qwen_grid(total, qwen_mu((height // 2) * (width // 2)))
    return whole.float()[-(steps + 1) :]


def regimes(sigmas: Tensor, split: float) -> tuple[Tensor, Tensor]:
    """The two parts of a grid, from t >= split on and below; they share a node.

    A part without steps holds one node; a sampler returns the latent unchanged for it.
    """
    high = min(split_index(sigmas, split), max(len(sigmas) - 1, 0))
    return sigmas[: high + 1], sigmas[high:]


def experts(sigmas: Tensor, boundary: float) -> tuple[Tensor, Tensor]:
    """The two parts of a grid above and below the boundary, which share its node.

    With boundary 0 the first part is the whole grid.
    """
    above = int((sigmas > sigmas.new_tensor(boundary)).sum())
    cut = min(above, max(len(sigmas) - 1, 0))
    return sigmas[: cut + 1], sigmas[cut:]


def saving_report(native: int, sigmas: Tensor, split: float) -> str:
    """The calls of the grid, and those saved of ``native`` steps, as a sentence."""
    if not len(sigmas):
        return "denoise is 0: there is nothing to sample, and the latent passes unchanged."
    high, low = (len(part) - 1 for part in regimes(sigmas, split))
    parts = f"{high} at or above {split:g}, {low} below"
    calls, saved = high + low, native - high - low
    if saved > 0:
        return f"{calls} model calls instead of {native} ({parts}): {saved} saved."
    why = (
        f"no step lies below {split:g}"
        if not low
        else "every step below it is kept, lower low_steps to save some"
    )
    return f"{calls} model calls ({parts}): nothing is saved, {why}."


class SplitGrid(NamedTuple):
    """A thinned grid, whole and in parts, in the order of the nodes' outputs."""

    sigmas: Tensor
    high: Tensor
    low: Tensor
    calls: int
    report: str
    high_expert: Tensor
    low_expert: Tensor
    native: Tensor


def split_grid(
    native: Tensor, thinning: Thinning, boundary: float, lines: tuple[str, ...] = ()
) -> SplitGrid:
    """Thin a grid, divide it by regime and by expert, and report the calls saved.

    ``lines`` are added to the report. Raises InvalidInput for a split or a boundary out of range,
    and for settings that ``regime_split`` refuses.
    """
    require_boundary(boundary)
    require_split(thinning.split)
    sigmas = native
    # A grid that ends at or above the split, such as the first of two parts, has no low steps.
    if len(native) and native[-1] < thinning.split:
        sigmas = regime_split(native, *thinning)
    if boundary and len(sigmas):
        sigmas = with_node(sigmas, boundary)
    first, second = experts(sigmas, boundary)
    report = [saving_report(len(native) - 1, sigmas, thinning.split), *lines]
    if boundary and len(sigmas):
        report.append(
            f"boundary {boundary:g}: {len(first) - 1} calls of the high-noise expert, "
            f"{len(second) - 1} of the low-noise expert."
        )
    calls = max(len(sigmas) - 1, 0)
    return SplitGrid(
        sigmas, *regimes(sigmas, thinning.split), calls, "\n".join(report), first, second, native
    )


def in_sigmas(grid: SplitGrid, model: Any) -> SplitGrid:
    """A grid in times as the SIGMAS that the MODEL's samplers take."""
    model_sampling = flow.model_sampling_of(model)
    parts = {k: v for k, v in grid._asdict().items() if isinstance(v, Tensor)}
    return grid._replace(**{k: sigmas_at(model_sampling, v) for k, v in parts.items()})


def limit_low_steps(native: Tensor, thinning: Thinning) -> tuple[Thinning, tuple[str, ...]]:
    """Reduce low_steps to the number that the grid has, with a line for the report if it is."""
    count = low_count(native, thinning.split)
    if not 0 < count < thinning.low_steps:
        return thinning, ()
    line = f"only {count} steps lie below the split, fewer than {thinning.low_steps}: all are kept."
    return thinning._replace(low_steps=count), (line,)
