"""Two processes of one run, for every family of ComfyUI's: DDP and FSDP2, stopped and taken up.

All of it in the newest ComfyUI that is found; in the others SD3.5 and Wan, which differ most (two
sequences of tokens or one, pictures or videos). ``torchrun_host.py`` makes the runs, in one
interpreter per ComfyUI.
"""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.host import circle
from tests.host.server import PACK, Host
from tests.host.torchrun_data import LENGTHS, write_cache
from tests.inside import HOSTS
from tests.training.toml_files import configure
from training.config.load import load
from training.data import batches
from training.data.cache import LatentCache
from training.files import read_weights
from training.networks.comfy import folder as comfy_folder
from training.run.folder import RunFolder

pytestmark = [pytest.mark.comfy, pytest.mark.slow]

STEPS, RANK = 4, 4
EVERYWHERE = ("sd3", "wan")
NEWEST = max(HOSTS, key=lambda host: comfy_folder.version(host.folder), default=None)


class Case(NamedTuple):
    """A network, the numbers that its file is stored in, and what of it is trained."""

    family: str
    dtype: str = "float32"
    lora: bool = True

    @property
    def name(self) -> str:
        return f"{self.family}_{self.dtype}_{'lora' if self.lora else 'full'}"


CASES = [Case(f, lora=lora) for f in ("sd3", "flux", "qwen_image", "wan") for lora in (True, False)]
FEW_BITS = [Case("wan", "float8_e4m3fn"), Case("wan", "bfloat16", lora=False)]
"""Frozen weights in 8 bits, and trained ones in 16, which are rounded stochastically."""
ALL = [*CASES, *FEW_BITS]


class Made(NamedTuple):
    """The folder of the runs, and of which cases there are any."""

    folder: Path
    cases: list[Case]

    def run(self, case: Case, way: str) -> Path:
        if case not in self.cases:
            pytest.skip("run in the newest ComfyUI only")
        return self.folder / f"{case.name}_{way}"

    def state(self, case: Case, way: str) -> dict:
        return RunFolder(self.run(case, way)).read_state()

    def weights(self, case: Case, way: str) -> dict[str, Tensor]:
        return read_weights(RunFolder(self.run(case, way)).weights(STEPS))[0]

    def records(self, case: Case, way: str) -> list[dict]:
        lines = (self.run(case, way) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def plan(folder: Path, host: Host, cases: list[Case]) -> dict:
    """What ``torchrun_host.py`` is to do."""
    starts, one, two, one_later, two_later = {}, [], [], [], []
    for case in cases:
        start = folder / f"{case.family}_{case.dtype}.safetensors"
        starts[start] = [case.family, case.dtype, str(start)]
        common = {
            "comfy": {"checkpoint": str(start), "folder": str(host.folder)},
            "data": {"cache": str(folder / f"{case.family}_cache"), "batch_size": 8},
            "optim": {"steps": STEPS, "lr": 1e-3, "ema": 0.9},
        }
        if case.lora:
            common["lora"] = {"rank": RANK}

        def job(way, *, shard=False, case=case, common=common, **options) -> dict:
            run = {"out": str(folder / f"{case.name}_{way}"), "device": "cpu", "report_every": 2}
            run |= {"shard": shard, "recompute": shard, "timeout": 60.0}
            file = configure(folder / f"{case.name}_{way}.toml", **common, run=run)
            return {"config": str(file), "resume": False, "stop": 0, "copy": None} | options

        left, joined = (str(folder / f"{case.name}_{way}") for way in ("left", "joined"))
        one += [job("one")]
        two += [
            job("copied"),
            job("spread", shard=True),
            job("resumed", shard=True, stop=1, copy=left),
            job("resumed", shard=True, resume=True),
        ]
        if case in CASES:
            one += [job("alone", stop=2, copy=joined)]
            one_later += [job("left", resume=True)]
            two_later += [job("joined", shard=True, resume=True)]
    phases = [{"one": one, "two": two}, {"one": one_later, "two": two_later}]
    return {"starts": list(starts.values()), "phases": phases}


@pytest.fixture(scope="module")
def made(comfy: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All the runs of a host."""
    folder = tmp_path_factory.mktemp(f"torchrun_{comfy.name}")
    cases = ALL if comfy == NEWEST else [c for c in CASES if c.family in EVERYWHERE]
    for family in {case.family for case in cases}:
        write_cache(folder / f"{family}_cache", family)
    (folder / "plan.json").write_text(json.dumps(plan(folder, comfy, cases)))
    done = subprocess.run(
        [comfy.python, Path(__file__).with_name("torchrun_host.py"), comfy.folder,
         folder / "plan.json"],
        env=circle.environment(folder / "packages"),
        cwd=PACK, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    logs = "".join(log.read_text()[-3000:] for log in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stderr[-2000:] + logs
    return Made(folder, cases)


each = pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
crossed = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def change(made: Made, case: Case, way: str) -> Tensor:
    """How far a run's averaged weights have come from the file that it began with, as one vector.

    Of a LoRA, which begins at none, the products B A.
    """
    now = made.weights(case, way)
    if case.lora:
        ends = (".lora_B.weight", ".lora_A.weight")
        layers = [k.removesuffix(ends[0]) for k in sorted(now) if k.endswith(ends[0])]
        parts = [now[layer + ends[0]] @ now[layer + ends[1]] for layer in layers]
    else:
        start, _ = read_weights(made.folder / f"{case.family}_{case.dtype}.safetensors")
        parts = [now[k].float() - start[k].float() for k in sorted(now)]
    return torch.cat([part.flatten() for part in parts])


def near(made: Made, case: Case, way: str) -> None:
    """A run is the one of a single process, but for the order of sums."""
    one, other = made.records(case, "one"), made.records(case, way)
    tolerance = (
        1e-4 if case in CASES else 2e-3
    )  # rounding to 16 bits falls otherwise here and there
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "grad_norm", "val_loss"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=tolerance), (a["step"], name)
    first, second = change(made, case, "one"), change(made, case, way)
    assert first.norm() > 0
    if case.dtype == "bfloat16":
        return  # steps of its last digit, each drawn: single weights say nothing
    off = float((second - first).norm() / first.norm())
    assert off < 3e-4, f"{off:.1e}"


def same(a: object, b: object) -> bool:
    """To the bit, in dicts and lists."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@each
def test_two_processes_are_as_one(made: Made, case: Case) -> None:
    for way in ("copied", "spread"):
        near(made, case, way)


@each
def test_a_sharded_run_that_was_stopped_goes_on_to_the_bit(made: Made, case: Case) -> None:
    assert same(made.state(case, "resumed"), made.state(case, "spread"))
    assert same(made.weights(case, "resumed"), made.weights(case, "spread"))
    for a, b in zip(made.records(case, "resumed"), made.records(case, "spread"), strict=True):
        assert {**a, "samples_per_s": 0} == {**b, "samples_per_s": 0}


@crossed
def test_one_process_and_two_take_up_each_others_states(made: Made, case: Case) -> None:
    for way, begun in (("left", 2), ("joined", 2)):
        assert made.records(case, way)[begun]["step"] == begun + 1
        near(made, case, way)


@crossed
def test_a_saved_state_is_whole(made: Made, case: Case) -> None:
    one, spread = made.state(case, "one"), made.state(case, "spread")
    for name, value in one["model"].items():
        assert value.shape == spread["model"][name].shape and type(value) is Tensor
    assert one["optimizer"]["state"].keys() == spread["optimizer"]["state"].keys()
    for number, moments in one["optimizer"]["state"].items():
        for name, value in moments.items():
            assert value.shape == spread["optimizer"]["state"][number][name].shape


def test_the_processes_have_texts_of_other_lengths(made: Made) -> None:
    """Without which they would agree for nothing: spread weights come together in each pass."""
    case = made.cases[0]
    config = load(made.folder / f"{case.name}_one.toml")
    cache = LatentCache(Path(config.data.cache))
    lengths = [LENGTHS[c] for c in [*cache.conditions, ""]]
    groups = []
    for step in range(1, STEPS + 1):
        cond = batches.batch(cache, config.data, config.run.seed, step).cond.tolist()
        groups.append([len({lengths[k] for k in part}) for part in (cond[:4], cond[4:])])
    assert any(a != b for a, b in groups), groups
