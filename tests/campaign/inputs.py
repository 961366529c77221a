"""Command lines, configurations and files that are wrong: each is one sentence, or it works.

Each case runs in a copy of this process with limited memory, and has ten seconds.
"""

import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from training import finetune, prepare, sample
from training.config import reference
from training.config.prepare import PrepareConfig
from training.config.schema import Config
from training.files import read_weights, save_weights

from .counts import Counts
from .jobs import JOBS, furnish, hang, quietly

KIND = "bad inputs"
MEMORY = 6 << 30
VALUES = (
    "nan", "inf", "-inf", "-1", "0", "0.5", "1e308", str(2**70), "true", '""', '"x"', "[]", "{}",
    "[1, 2, 3]", "[nan]", "[[]]", '{a = "b"}', '"a\\u0000b"', f'"{"x" * 300}"', "[" * 3000,
    '"/dev/null"', '"/"', '"."', '"\\ud800"', "2024-01-01", "'''", "\u00b2", "\udcff",
)  # fmt: skip
"""What a key is set to."""
FREE = {"run.out", "optim.steps", "run.device", "run.trackers", "comfy.folder", "comfy"}
"""Keys that lead elsewhere, or for long."""
SAMPLE = {
    "--n": ["0", "-1", "x", str(10**12), str(2**70)], "--steps": ["0", "-5", str(2**70)],
    "--batch": ["0", str(10**12)],
    "--classes": ["", "9", "0-", "-", "\u00b2", "0-99999999999", "2-1"],
    "--shift": ["0", "-1", "nan", "inf"], "--guidance": ["nan", "inf", "1e300"],
    "--split": ["nan", "2", "-1"], "--low-steps": ["0", "-3", str(2**70)],
    "--seed": [str(2**70), "-1", "x"], "--vae": ["/", "", "nothing"], "--device": ["cuda", "x"],
    "--sampler": ["meanflow", "x"], "--precision": ["fp8"],
}  # fmt: skip


class Case(NamedTuple):
    """What is done to the files in a folder first, then a command with its arguments."""

    name: str
    before: Callable[[Path], object]
    main: Callable[[list[str]], int]
    arguments: list[str]


def _nothing(work: Path) -> None:
    """For cases that are wrong by their arguments alone."""


def _keys() -> list[Case]:
    cases = []
    for kind, main, first in (
        (Config, finetune.main, ["{home}/train.toml", "--set", 'run.out="{work}/run"']),
        (PrepareConfig, prepare.main, ["{home}/pictures", "{work}/cache", "--set", "size=8"]),
    ):
        steps = ["--set", "optim.steps=1"] if kind is Config else []
        for section in reference.keys(kind).values():
            for key in section:
                if key.name not in FREE:
                    for value in VALUES:
                        given = ["--set", f"{key.name}={value}"]
                        name = f"{main.__module__} {key.name}={value[:40]}"
                        cases.append(Case(name, _nothing, main, [*first, *steps, *given]))
    return cases


def _options() -> list[Case]:
    first = ["{home}/sit.safetensors", "{work}/samples", "--n", "2", "--steps", "2"]
    return [
        Case(f"sample {option}={value}", _nothing, sample.main, [*first, f"{option}={value}"])
        for option, values in SAMPLE.items()
        for value in values
    ]


def _descriptions() -> list[Case]:
    """Checkpoints whose description of themselves is wrong."""
    wrong = (0, -1, "2", None, 10**9, 2**70, 0.5, [1], {}, "x", float("inf"))
    cases = []
    for part in ("sit", "latent"):
        for name in json.loads(_facts(part)):
            for value in wrong:

                def write(
                    work: Path, part: str = part, name: str = name, v: object = value
                ) -> None:
                    tensors, facts = read_weights(work.parent / "sit.safetensors")
                    table = json.loads(facts[part]) | {name: v}
                    facts = facts | {part: json.dumps(table)}
                    save_weights(work / "wrong.safetensors", tensors, facts)

                file = ["{work}/wrong.safetensors", "{work}/samples", "--n", "2", "--steps", "2"]
                cases.append(Case(f"{part}.{name} = {value}", write, sample.main, file))
    return cases


def _describe(part: str, changes: dict[str, object], work: Path) -> None:
    tensors, facts = read_weights(work.parent / "sit.safetensors")
    facts = facts | {part: json.dumps(json.loads(facts[part]) | changes)}
    save_weights(work / "wrong.safetensors", tensors, facts)


def _facts(part: str) -> str:
    sit = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads",
           "mlp_ratio", "num_classes", "learn_sigma", "data_time", "interval")  # fmt: skip
    latent = ("kind", "channels", "scale", "shift", "downscale")
    return json.dumps(dict.fromkeys(sit if part == "sit" else latent))


def _damages() -> list[Case]:
    """Runs and caches of which one file is damaged, cut, empty, missing or something else."""
    resume = ["{home}/train.toml", "--set", 'run.out="{work}/run"', "--resume"]
    again = ["{home}/pictures", "{work}/cache"]
    again += [p for s in ("size=8", "channels=1", "shard=4") for p in ("--set", s)]
    learn = ["{home}/train.toml", "--set", 'run.out="{work}/new"']
    learn += ["--set", 'data.cache="{work}/cache"', "--set", "optim.steps=1"]
    cases = []
    for seed in range(60):
        run = ("train", finetune.main, resume), ("prepare", prepare.main, again)
        for job, main, arguments in (*run, ("prepare", finetune.main, learn)):

            def spoil(work: Path, job: str = job, seed: int = seed) -> None:
                JOBS[job].start(work)
                draw = random.Random(seed)
                files = [p for p in work.rglob("*") if p.is_file() and p.name != ".lock"]
                _spoil(draw.choice(sorted(files)), draw)

            cases.append(Case(f"damage {seed} of {job}, {main.__module__}", spoil, main, arguments))
    return cases


def _spoil(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    how = draw.randrange(5)
    if how == 0 and data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == 1:
        data = data[: draw.randrange(len(data) + 1)]
    elif how == 2:
        data = bytearray(b"[" * 50_000)
    elif how == 3:
        data = bytearray()
    else:
        path.unlink()
        return
    path.write_bytes(data)


def run(seconds: float, seed: int) -> Counts:
    """Cases in an order that is drawn, until the time is over."""
    counts, end = Counts(), time.monotonic() + seconds
    if not hasattr(os, "fork"):
        return counts
    cases = [*_keys(), *_options(), *_descriptions(), *_damages()]
    random.Random(seed).shuffle(cases)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        furnish(home)
        (home / "first").mkdir()
        for job in JOBS.values():  # libraries are loaded before the process is copied
            job.start(home / "first")
        inside = _names(home)
        for number, case in enumerate(cases):
            if time.monotonic() > end and number:
                break
            work = home / f"case {number}"
            work.mkdir()
            counts.add(KIND)
            _try(case, home, work, counts)
            outside = _names(home) - inside - _names(work) - {work}
            if outside:
                counts.find(KIND, "outside", f"{case.name}: {min(outside)}")
            inside |= outside | _names(work) | {work}
    return counts


def _names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _try(case: Case, home: Path, work: Path, counts: Counts) -> None:
    """Run a case in a copy of this process and judge what it says."""
    places = {"{home}": str(home), "{work}": str(work)}
    arguments = [re.sub(r"\{home\}|\{work\}", lambda m: places[m[0]], a) for a in case.arguments]
    report = work / "said.txt"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            _limit()
            case.before(work)
            code, said = quietly(case.main, arguments)
            report.write_text(f"{code}\n{said}", "utf-8", errors="replace")
        finally:
            os._exit(0)
    began = time.monotonic()
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() - began > 2 * hang():  # with the time that ``before`` takes
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts.find(KIND, "hang", case.name)
            return
        time.sleep(0.005)
    code, _, said = (report.read_text("utf-8") if report.exists() else "-1\n").partition("\n")
    told = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    usage = "usage: " in said  # argparse's own way
    if int(code) not in (0, 2) or (int(code) == 2 and len(told) != 1 and not usage):
        counts.find(KIND, "traceback", f"{case.name}: exit code {code}: {said[-600:]}")


def _limit() -> None:
    """No case may take the machine's memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
