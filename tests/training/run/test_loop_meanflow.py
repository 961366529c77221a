"""A MeanFlow run from its configuration to its pictures: resuming, exploding, several processes."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sv_core.errors import InvalidInput
from sv_core.models.sit import SiT
from training.config.load import dump, load
from training.config.schema import MeanFlowConfig, ModelConfig
from training.data import dataset as datasets
from training.files import read_weights
from training.finetune import main
from training.networks.sit import load as load_backbone
from training.run.folder import RunFolder
from training.run.loop import train
from training.sampling.pictures import sample_calls

ROOT = Path(__file__).resolve().parents[3]


def records(config) -> list[dict]:
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_four_steps_and_four_resumed_are_eight(mean, with_run, tmp_path):
    whole = with_run(mean, out=str(tmp_path / "whole"))
    train(whole)
    train(replace(mean, optim=replace(mean.optim, steps=4)))
    train(mean, resume=True)
    a, b = (RunFolder(Path(c.run.out)).read_state() for c in (whole, mean))
    assert same(a, b) and a["bank"]["total"].sum() == 2 * 8 * 8
    one, two = (read_weights(RunFolder(Path(c.run.out)).weights(8))[0] for c in (whole, mean))
    assert same(one, two)
    for first, second in zip(records(whole)[-2:], records(mean)[-2:], strict=True):
        for record in (first, second):
            record.pop("samples_per_s")
        assert first == second
    other = replace(mean, meanflow=replace(mean.meanflow, guidance=3.0))
    with pytest.raises(
        InvalidInput, match=r"began with meanflow\.guidance = 1\.5, this config says"
    ):
        train(other, resume=True)


def test_reports_and_previews_change_nothing_and_say_what_they_should(mean, with_run, tmp_path):
    """Trace weights and reports draw from one generator: reports must draw last."""
    mean = replace(
        mean,
        meanflow=replace(mean.meanflow, trace_weight=True, power=0.0, beta=0.2),
        data=replace(mean.data, batch_size=32),
        objective=replace(mean.objective, bank=32),
    )
    quiet = with_run(mean, out=str(tmp_path / "quiet"), report_every=0, validate_every=0)
    train(quiet)
    train(with_run(mean, preview_every=4))
    one, two = (read_weights(RunFolder(Path(c.run.out)).weights(8))[0] for c in (quiet, mean))
    assert same(one, two)
    for record in records(mean):
        n = record["boundary"] is not None and record["interior"] is not None
        assert n and min(record["boundary"], record["interior"]) <= record["loss"]
        assert record["loss"] <= max(record["boundary"], record["interior"])
        assert ("meanflow" in record) == ("stable" in record) == (record["step"] % 2 == 0)
        assert ("val_one_call" in record) == ("val_loss" in record) == (record["step"] % 4 == 0)
    report = records(mean)[-1]["meanflow"]
    assert report["beta"] == 0.2 and 0 <= report["suggested"] <= 1
    assert report["trace"] > 0 and report["variance"] > 0
    # Ten rows of pictures in one call, then in four.
    with Image.open(Path(mean.run.out) / "previews" / "000008.png") as picture:
        assert picture.size == (10 * 9 * 6, 20 * 9 * 6)
        upper, lower = picture.crop((0, 0, 540, 540)), picture.crop((0, 540, 540, 1080))
        assert upper.tobytes() != lower.tobytes()


def test_a_flow_matching_checkpoint_is_taken_where_it_is(mean, tiny, tmp_path):
    """At first its average velocity is the plain network's velocity, over any interval."""
    flow = replace(tiny, optim=replace(tiny.optim, steps=60, lr=1e-2), run=replace(
        tiny.run, out=str(tmp_path / "flow"), save_every=0, validate_every=0))  # fmt: skip
    weights = train(flow).weights
    start = replace(
        mean,
        model=ModelConfig(checkpoint=str(weights)),
        meanflow=MeanFlowConfig(equal=0.25),
        data=replace(mean.data, batch_size=64, label_dropout=0.0),
        optim=replace(mean.optim, steps=1, lr=1e-12, warmup=0),
    )
    train(start)
    plain = load_backbone(weights)
    begun = load_backbone(RunFolder(Path(start.run.out)).weights(1))
    assert begun.interval and not plain.interval
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    dataset = datasets.load(start.data)
    with torch.no_grad():
        v = plain.velocity(noise, torch.ones(4), labels)
    one = dataset.latent.to_model(sample_calls(begun, labels, noise))
    torch.testing.assert_close(one, noise - v, rtol=1e-4, atol=1e-4)
    chain = dataset.latent.to_model(sample_calls(begun, labels, noise, 4))
    assert (one - chain).abs().max() > 0.1  # which is not yet consistent


def test_an_exploding_path_stops_the_run_and_spares_the_checkpoint(mean, with_run, monkeypatch):
    """After step 6 the network's derivative along the interval is beyond all bounds."""
    real, calls = SiT.forward, []

    def forward(self, x_t, t, y, r=None):
        v = real(self, x_t, t, y, r)
        step = records(mean)[-1]["step"] if (Path(mean.run.out) / "metrics.jsonl").exists() and \
            (Path(mean.run.out) / "metrics.jsonl").stat().st_size else 0  # fmt: skip
        if step >= 6 and r is not None:
            calls.append(step)
            v = v + torch.sinh(1e4 * (t - r)).view(-1, 1, 1, 1)
        return v

    monkeypatch.setattr(SiT, "forward", forward)
    with pytest.raises(FloatingPointError) as caught:
        train(with_run(mean, save_every=2))
    said = str(caught.value)
    assert "MeanFlow target is not finite, or more than meanflow.limit = 100 times" in said
    assert "at step 7, t = 0." in said and "(r = 0." in said and "\n" not in said
    assert f"the last good checkpoint is {RunFolder(Path(mean.run.out)).weights(6)}" in said
    assert calls and RunFolder(Path(mean.run.out)).read_state()["step"] == 6
    tensors = read_weights(RunFolder(Path(mean.run.out)).weights(6))[0]
    assert all(torch.isfinite(x).all() for x in tensors.values())
    monkeypatch.setattr(SiT, "forward", real)
    assert train(with_run(mean, save_every=2), resume=True).finished


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["objective.kind=cfm"], "meanflow.beta is for objective.kind = meanflow, and it is cfm"),
        (["meanflow.beta=x"], "meanflow.beta must be a number or auto, got 'x'"),
        (["meanflow.beta=1.5"], "meanflow.beta must be a share between 0 and 1, got 1.5"),
        (["meanflow.beta=nan"], "meanflow.beta must be a share"),
        (["meanflow.beta=true"], "meanflow.beta must be a number, got True"),
        (["meanflow.equal=1"], "meanflow.equal must be at least 0 and below 1"),
        (["meanflow.velocity=x"], "have: conditional, stable"),
        (["meanflow.derivative=x"], "have: exact, difference, available"),
        (["meanflow.trace_weight=true", "meanflow.power=1.0"], "count the same noise twice"),
        (["meanflow.anchor=0.1", "meanflow.beta=0"], "which meanflow.beta = 0 does not use"),
        (["run.precision=fp16"], "overflows in MeanFlow's derivative: use bf16"),
        (["lora.rank=4"], "leave out lora.rank to train all weights"),
        (["objective.timestep_params.max=1"], "for timesteps 'logit_normal' (have: mean, std)"),
        (["meanflow.velocity=stable", "objective.bank=4"], "objective.bank is 4, less than the 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(mean, tmp_path, capsys, settings, words):
    file = tmp_path / "config.toml"
    file.write_text(dump(mean))
    assert load(file) == mean
    arguments = [part for s in settings for part in ("--set", s)]
    assert main([str(file), "--dry-run", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out


WORKER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.config.load import load
from training.run.loop import train
from training.engine.distributed import Processes

end, Processes.leave = Processes.leave, lambda self: None
for file in sys.argv[1:]:
    train(load(Path(file)))
"""


def test_two_processes_are_as_one_copied_and_spread(mean, with_run, tmp_path):
    """With the exact derivative through spread weights, and processes that have no inner row."""
    mean = replace(
        mean,
        meanflow=MeanFlowConfig(beta=0.3, equal=0.8, guidance=1.5, anchor=0.1, derivative="exact"),
        optim=replace(mean.optim, steps=6),
        run=replace(mean.run, timeout=60.0, validate_every=0, save_every=0, report_every=3),
    )
    files = []
    for name, run, parts in (("copied", {}, 2), ("spread", {"shard": True}, 1)):
        config = with_run(mean, out=str(tmp_path / name), **run)
        config = replace(config, optim=replace(config.optim, accumulate=parts))
        files.append(tmp_path / f"{name}.toml")
        files[-1].write_text(dump(config))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, files)],
            cwd=ROOT, env=common | {"RANK": str(i), "LOCAL_RANK": str(i)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    train(with_run(mean, out=str(tmp_path / "one")))
    for process in processes:
        said = process.communicate(timeout=200)[1]
        assert process.returncode == 0, said
    one = read_weights(RunFolder(tmp_path / "one").weights(6))[0]
    for name in ("copied", "spread"):
        other = read_weights(RunFolder(tmp_path / name).weights(6))[0]
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=5e-5, msg=key)
        runs = (records(with_run(mean, out=str(tmp_path / folder))) for folder in ("one", name))
        for a, b in zip(*runs, strict=True):
            for key in ("loss", "boundary", "interior", "grad_norm"):
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
