"""Many pictures from a checkpoint: exact samplers, restartable, refused in words."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sv_core.latent import SD_VAE, pixels
from sv_core.models.sit import SiT, SiTConfig, with_interval
from sv_core.models.sit_file import from_checkpoint, to_metadata
from training import rng, sample
from training.files import read_weights, save_weights
from training.sampling import batch


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A SiT with random last layers, so that class and noise both matter."""
    torch.manual_seed(0)
    config = SiTConfig(8, 4, 1, 16, 1, 2, num_classes=3)
    model = SiT(config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path / "net.safetensors"
    save_weights(path, model.state_dict(), to_metadata(config, pixels(1)))
    return path


@pytest.fixture
def meanflow(checkpoint) -> Path:
    """The same SiT told intervals, which matter."""
    model, latent = from_checkpoint(*read_weights(checkpoint))
    model = with_interval(model)
    for parameter in model.interval_embedder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = checkpoint.with_name("meanflow.safetensors")
    save_weights(path, model.state_dict(), to_metadata(model.config, latent))
    return path


def go(checkpoint, out, *settings) -> int:
    return sample.main([str(checkpoint), str(out), "--steps", "4", *settings])


def by_hand(checkpoint, ts, guidance=1.0):
    """Two pictures of MeanFlow's chain, by the network alone."""
    model, latent = from_checkpoint(*read_weights(checkpoint))
    y, null = torch.arange(2), torch.full((2,), 3)
    x = torch.randn(2, 1, 8, 8, generator=rng.generator(0, 0, "sample"))
    with torch.no_grad():
        for t, r in pairwise(ts):
            t, r = torch.full((2,), t), torch.full((2,), r)
            u, u_null = model(x, t, y, r), model(x, t, null, r)
            x = x - (t - r)[:, None, None, None] * (u_null + guidance * (u - u_null))
    return latent.from_model(x).clamp(0, 1)[:, 0]


@pytest.mark.parametrize(
    ("settings", "ts", "guidance"),
    [
        ([], [1.0, 0.0], 1.0),  # one call, unasked
        (["--sampler", "meanflow", "--steps", "2"], [1.0, 0.5, 0.0], 1.0),
        (["--steps", "2", "--shift", "3"], [1.0, 0.75, 0.0], 1.0),
        (["--guidance", "1.5"], [1.0, 0.0], 1.5),
    ],
)
def test_a_meanflow_checkpoint_jumps(meanflow, tmp_path, settings, ts, guidance):
    assert sample.main([str(meanflow), str(tmp_path / "out"), "--n", "2", *settings]) == 0
    got = torch.from_numpy(read(tmp_path / "out")[..., 0]) / 255
    assert (got - by_hand(meanflow, ts, guidance)).abs().max() < 0.51 / 255
    other = by_hand(meanflow, [1.0, 0.2, 0.0], guidance)
    assert (got - other).abs().max() > 0.05, "the interval does not matter here"


def test_a_meanflow_checkpoint_is_a_plain_flow_too(meanflow, checkpoint, tmp_path):
    """r = t; and where the embedder is untrained, the flow that it was before."""
    model, latent = from_checkpoint(*read_weights(checkpoint))
    model = with_interval(model)
    start = tmp_path / "start.safetensors"
    save_weights(start, model.state_dict(), to_metadata(model.config, latent))
    for file, out in ((checkpoint, "plain"), (start, "start"), (meanflow, "trained")):
        assert go(file, tmp_path / out, "--n", "2", "--sampler", "heun") == 0
    plain, same, trained = (read(tmp_path / out) for out in ("plain", "start", "trained"))
    assert (plain == same).all() and (plain != trained).any()


def test_a_plain_checkpoint_does_not_jump(checkpoint, tmp_path, capsys):
    assert go(checkpoint, tmp_path / "out", "--sampler", "meanflow") == 2
    said = capsys.readouterr().err
    assert "knows no average velocity" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def read(out) -> np.ndarray:
    with np.load(out / "samples.npz", allow_pickle=False) as file:
        return file["arr_0"]


@pytest.mark.parametrize("sampler", batch.SAMPLERS)
def test_every_sampler_writes_what_fid_suites_read(checkpoint, tmp_path, sampler):
    extra = ["--low-steps", "1"] if sampler == "stable" else []
    assert go(checkpoint, tmp_path / "out", "--n", "7", "--batch", "3", "--sampler", sampler,
              "--guidance", "1.5", "--interval", "0.2", "0.8", *extra) == 0  # fmt: skip
    images = read(tmp_path / "out")
    assert images.shape == (7, 8, 8, 3) and images.dtype == np.uint8
    assert (images[..., 0] == images[..., 2]).all() and len(np.unique(images)) > 50
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.size == (7 * 9 * 8, 9 * 8)
    assert not list((tmp_path / "out").glob("part-*"))


def test_classes_are_taken_in_turn_and_a_picture_is_its_own(checkpoint, tmp_path):
    assert go(checkpoint, tmp_path / "all", "--n", "6", "--batch", "2") == 0
    assert go(checkpoint, tmp_path / "more", "--n", "8", "--batch", "2") == 0
    assert (read(tmp_path / "more")[:6] == read(tmp_path / "all")).all()
    assert go(checkpoint, tmp_path / "two", "--n", "2", "--batch", "2", "--classes", "0-1") == 0
    assert (read(tmp_path / "two") == read(tmp_path / "all")[:2]).all()
    assert go(checkpoint, tmp_path / "other", "--n", "2", "--batch", "2", "--classes", "2") == 0
    assert (read(tmp_path / "other") != read(tmp_path / "two")).any()
    assert sample.parse_classes("0-2,1", 3) == [0, 1, 2, 1]


def test_a_crash_at_any_write_is_made_good(checkpoint, tmp_path, monkeypatch, capsys):
    arguments = ["--n", "7", "--batch", "3"]
    assert go(checkpoint, tmp_path / "whole", *arguments) == 0
    whole, real = (tmp_path / "whole" / "samples.npz").read_bytes(), os.replace
    for stop in range(6):  # the settings, three parts, the grid, the .npz
        out, calls = tmp_path / f"{stop}", []

        def crash(source, target, stop=stop, calls=calls):
            calls.append(target)
            if len(calls) > stop:
                raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", crash)
            assert go(checkpoint, out, *arguments) == 130
        before = {p: p.stat().st_mtime_ns for p in out.glob("part-*")}
        assert len(before) == min(max(stop - 1, 0), 3)
        assert go(checkpoint, out, *arguments) == 0
        assert (out / "samples.npz").read_bytes() == whole
        assert not list(out.glob("part-*")) and not list(out.glob(".*.partial"))
    capsys.readouterr()
    assert go(checkpoint, tmp_path / "whole", *arguments) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_refusals_are_one_sentence(checkpoint, tmp_path, capsys):
    def refused(*settings, file=checkpoint, out=tmp_path / "out") -> str:
        assert go(file, out, *settings) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    assert "there is no checkpoint" in refused(file=tmp_path / "none.safetensors")
    assert "classes 0 to 2" in refused("--classes", "3")
    assert "wants numbers" in refused("--classes", "cat")
    assert "--n must be a number from 1 to" in refused("--n", "0")
    assert "--interval wants" in refused("--interval", "0.9", "0.1")
    assert "--shift must be" in refused("--shift", "0")
    assert "low_steps" in refused("--sampler", "stable", "--low-steps", "9")
    assert "makes pixels" in refused("--vae", "x.safetensors")
    assert not (tmp_path / "out").exists()
    assert "holds other files" in refused(out=tmp_path)
    assert go(checkpoint, tmp_path / "out", "--n", "2") == 0
    capsys.readouterr()
    assert "was begun with seed = 0, now it is 1" in refused("--n", "2", "--seed", "1")
    (tmp_path / "out" / "settings.json").write_text("{")
    assert "is damaged" in refused("--n", "2")

    config = SiTConfig(8, 4, 4, 16, 1, 2, num_classes=3)
    latent = tmp_path / "latent.safetensors"
    save_weights(latent, SiT(config).state_dict(), to_metadata(config, SD_VAE))
    assert "makes sd latents: name their VAE" in refused(file=latent, out=tmp_path / "sd")


def test_latents_go_through_their_vae(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()
    save_weights(tmp_path / "vae.safetensors", vae.state_dict(), {})
    config = SiTConfig(4, 2, 4, 16, 1, 2, num_classes=3)
    file = tmp_path / "latent.safetensors"
    save_weights(file, SiT(config).state_dict(), to_metadata(config, SD_VAE))  # the zero velocity
    arguments = ["--n", "2", "--batch", "2", "--vae", str(tmp_path / "vae.safetensors")]
    assert go(file, tmp_path / "out", *arguments) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["vae"] and settings["steps"] == 4
    noise = torch.randn(2, 4, 4, 4, generator=rng.generator(0, 0, "sample"))
    with torch.no_grad():
        wanted = (vae.decode(noise / SD_VAE.scale).sample / 2 + 0.5).clamp(0, 1)
    got = torch.from_numpy(read(tmp_path / "out")).permute(0, 3, 1, 2) / 255
    assert (got - wanted).abs().max() < 1.01 / 255


def test_a_damaged_part_is_named(checkpoint, tmp_path, monkeypatch, capsys):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(sample, "draw_grid", stop)
        assert go(checkpoint, tmp_path / "out", "--n", "2") == 130
    (part,) = (tmp_path / "out").glob("part-*.npy")
    part.write_bytes(part.read_bytes()[:-5])
    capsys.readouterr()
    assert go(checkpoint, tmp_path / "out", "--n", "2") == 2
    assert f"error: {part} cannot be read" in capsys.readouterr().err
    part.unlink()
    assert go(checkpoint, tmp_path / "out", "--n", "2") == 0
