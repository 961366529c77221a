"""A measurement from its first run to its last: what is settled first, and what is left to do."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from sv_core.errors import InvalidInput

from .client import Comfy, RunFailed
from .folder import ReportFolder, run_name
from .measures import Lpips, compare
from .methods import (
    CONVERGED,
    FEWER,
    ORIGINAL,
    PAPER,
    RIVAL,
    STEPS,
    Bed,
    Method,
    best_trial,
    knob_range,
    next_trial,
    prompt_of,
)
from .prompts import Prompt
from .surgery import PICTURES, REPORT

COUNTED = ("calls", "evaluations", "cond", "uncond", "seconds", "sampling_seconds")


@dataclass(frozen=True)
class Row:
    """One run that is to be made."""

    prompt: int
    seed: int
    method: Method

    @property
    def name(self) -> str:
        return run_name(self.prompt, self.seed, self.method.key)


@dataclass
class Work:
    """What all runs share."""

    comfy: Comfy
    bed: Bed
    folder: ReportFolder
    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    lpips: Lpips | None
    tell: Callable[[str], None]
    system: dict
    """What the server says of itself."""

    def rows(self, methods: Sequence[Method]) -> Iterator[Row]:
        """Method after method for the same noise, so that what is finished can be compared."""
        for prompt, seed, method in itertools.product(
            range(len(self.prompts)), self.seeds, methods
        ):
            yield Row(prompt, seed, method)


def add_up(outputs: dict[str, dict]) -> dict[str, float]:
    """The counts of all samplers of a run."""
    counts = [o["counts"][0] for node, o in outputs.items() if node.startswith(f"{REPORT}_")]
    return {name: round(sum(c[name] for c in counts), 4) for name in COUNTED}


def _queue(work: Work, row: Row, label: str) -> tuple[dict[str, dict], float]:
    """(outputs, seconds from queueing to the end)."""
    text = work.prompts[row.prompt].text
    prompt = prompt_of(work.bed, row.method, text, row.seed, label)
    began = time.perf_counter()
    return work.comfy.run(prompt), time.perf_counter() - began


def run_row(work: Work, row: Row) -> dict:
    """The record of a run, which is made unless it is there. Raises RunFailed."""
    if (record := work.folder.run(row.name)) is not None:
        return _with_lpips(work, row, record)
    work.folder.drop_pictures(row.name)
    outputs, seconds = _queue(work, row, f"{work.comfy.name} {row.name}")
    made = outputs[PICTURES]["images"]
    for i, where in enumerate(made):
        work.folder.keep_picture(row.name, i, work.comfy.picture(where))
    record = {
        "prompt": row.prompt,
        "seed": row.seed,
        "method": row.method.key,
        **add_up(outputs),
        "wall_seconds": round(seconds, 3),
        "pictures": len(made),
        **measure_row(work, row),
    }
    work.folder.keep_run(row.name, record)
    return record


def _with_lpips(work: Work, row: Row, record: dict) -> dict:
    """The record, measured again if LPIPS has been asked for since."""
    lacking = [v for k, v in record.items() if k.startswith("to_") and "lpips" not in v]
    if work.lpips is None or not lacking:
        return record
    record |= measure_row(work, row)
    work.folder.keep_run(row.name, record)
    return record


def measure_row(work: Work, row: Row) -> dict[str, dict]:
    """Its distance to the original and to the converged run, as far as those are there."""
    found = {}
    for kind in (ORIGINAL, CONVERGED):
        pictures = work.folder.pictures(run_name(row.prompt, row.seed, kind))
        if kind != row.method.kind and pictures and _is_done(work, row, kind):
            made = work.folder.pictures(row.name)
            found[f"to_{kind}"] = compare(made, pictures, work.bed.picture.is_video, work.lpips)
    return found


def _is_done(work: Work, row: Row, kind: str) -> bool:
    return work.folder.run(run_name(row.prompt, row.seed, kind)) is not None


def settle(
    work: Work, methods: Sequence[Method], tries: int
) -> tuple[list[Method], list[str], int]:
    """(methods with their settings, why others are left out, calls of the original).

    From runs of the first picture. Where Fewer Calls leaves out no call, there is nothing to
    compare it with at that share.
    """
    first = Row(0, work.seeds[0], methods[0])
    own = int(run_row(work, first)["calls"])
    if not own:
        raise InvalidInput("the model was not called in the first run: there is nothing to measure")
    targets: dict[float, int] = {}
    for method in methods:
        if method.kind in (CONVERGED, FEWER):
            made = run_row(work, replace(first, method=method))
            targets |= {method.share: int(made["calls"])} if method.kind == FEWER else {}
    settled, notes = [], []
    for method in methods:
        found = _settle(work, replace(first, method=method), own, targets, tries)
        if isinstance(found, str):
            notes.append(f"{method.rival.kind if method.rival else method.name}: {found}")
        else:
            settled.append(found)
    return settled, list(dict.fromkeys(notes)), own


def _settle(work: Work, row: Row, own: int, targets: dict[float, int], tries: int) -> Method | str:
    """The method at as many calls as ours makes, or as near as it gets; or why it is left out."""
    method = row.method
    if method.kind in (ORIGINAL, CONVERGED, PAPER):
        return method
    target = targets[method.share]
    if target >= own:
        return "left out, Fewer Calls leaves this run as it is; the server's log says why"
    if method.kind == STEPS:
        return replace(method, settings={"ratio": target / own})
    if method.kind == RIVAL:
        try:
            return _tune(work, row, own, target, tries)
        except RunFailed as e:
            return str(e)
    return method


def _tune(work: Work, row: Row, own: int, target: int, tries: int) -> Method | str:
    """A rival with the setting whose calls are nearest to ours. Raises RunFailed."""
    method, rival, trials = row.method, row.method.rival, work.folder.trials()
    assert rival is not None
    key = f"{rival.kind} {sorted(rival.settings.items())}"
    known = {float(value): calls for value, calls in trials.get(key, {}).items()}
    settled = trials.get("settled", {}).get(method.key)
    low, high = knob_range(work.bed.info, rival)
    for _ in range(0 if settled else tries):
        value = next_trial(known, target, low, high)
        if value is None:
            break
        trial = replace(row, method=replace(method, settings={rival.knob: value}))
        outputs, _ = _queue(work, trial, f"{work.comfy.name} {key} {value}")
        known[value] = int(add_up(outputs)["calls"])
        trials.setdefault(key, {})[repr(value)] = known[value]
        work.folder.keep_trials(trials)
        work.tell(f"{rival.kind}, {rival.knob} {value:.4g}: {known[value]} calls")
    best = settled[rival.knob] if settled else best_trial(known, target)
    trials.setdefault("settled", {})[method.key] = {rival.knob: best}
    work.folder.keep_trials(trials)
    if known[best] >= own:
        return f"left out, it makes {known[best]} of {own} calls whatever {rival.knob} is"
    return replace(method, settings={rival.knob: best})


def expected_calls(method: Method, own: int) -> int:
    """About how many calls one of its runs makes, for the time left."""
    share = method.settings["ratio"] if method.kind in (CONVERGED, STEPS) else method.share
    return max(1, round(own * share))


def run_all(work: Work, methods: Sequence[Method], own: int) -> dict[str, str]:
    """Make every run that is not there yet; the reasons of methods that failed, by key.

    The bar counts calls of the model, so that its time left is that of the work left. A rival that
    fails is left out; anything else that fails ends the measurement.
    """
    rows = list(work.rows(methods))
    done = [row for row in rows if work.folder.run(row.name) is not None]
    failed: dict[str, str] = {}
    total = sum(expected_calls(row.method, own) for row in rows)
    at = sum(expected_calls(row.method, own) for row in done)
    shown = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=total, initial=at, smoothing=0.05, bar_format=shown) as bar:
        for row in rows:
            if row in done or row.method.key in failed:
                continue
            bar.set_description(f"prompt {row.prompt + 1}/{len(work.prompts)} {row.method.key}")
            try:
                run_row(work, row)
            except RunFailed as e:
                if row.method.kind != RIVAL:
                    raise
                failed[row.method.key] = str(e)
            bar.update(expected_calls(row.method, own))
    return failed
