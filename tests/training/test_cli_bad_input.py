"""What the commands say of bad input, as far as no ComfyUI is needed for it: exit code 2, one
sentence, no traceback, and every file that was there before as it was.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training import finetune, prepare
from training.config.load import dump
from training.data.cache import LatentCache
from training.data.format import SKIPPED
from training.networks.comfy import folder as comfy_folder
from training.run import step

ROOT = Path(__file__).resolve().parents[2]
BARS = ("train:", "prepare:", "sizes:", "note:")
PIXELS = {"size": 8, "channels": 1}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sets(values: dict) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def refused(tmp_path, capsys):
    """Call a command's main and return the sentence that it refuses by."""

    def call(main, arguments) -> str:
        before = contents(tmp_path)
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith(BARS)]
        assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), (code, lines)
        now = contents(tmp_path)
        if "--resume" in arguments:  # it has begun: config.toml is new, metrics.jsonl longer
            own = ("config.toml", "state-000007.json")  # which holds the configuration, too
            before = {p: d for p, d in before.items() if p.name not in own}
            now = {p: d[: len(before.get(p, d))] for p, d in now.items()}
        assert [p for p, data in before.items() if now.get(p) != data] == []
        return lines[0]

    return call


@pytest.fixture
def train(tmp_path, tiny, refused):
    """Refused by training.finetune with a tiny run and other values; keys with __ for the dot."""
    file = tmp_path / "tiny.toml"
    file.write_text(dump(tiny))

    def call(*flags: str, **values: object) -> str:
        chosen = {key.replace("__", "."): value for key, value in values.items()}
        return refused(finetune.main, [file, *sets(chosen), *flags])

    return call


def write_pictures(folder: Path, captions: list[bytes | None], sizes=((8, 8),)) -> Path:
    """Pictures of noise, each with its caption's bytes beside it, or with none."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number, caption in enumerate(captions):
        shape = sizes[number % len(sizes)]
        picture = Image.fromarray(noise.integers(0, 256, shape, np.uint8))
        picture.save(folder / f"{number}.png")
        if caption is not None:
            (folder / f"{number}.txt").write_bytes(caption)
    return folder


WRONG = ["ein Löwe".encode(code) for code in ("utf-16", "utf-16-le", "latin-1")]
GOOD = b"a cat"


def test_captions_in_a_wrong_encoding_are_named(tmp_path, refused, capsys):
    for number, wrong in enumerate(WRONG):
        pictures = write_pictures(tmp_path / f"all {number}", [wrong, wrong])
        said = refused(prepare.main, [pictures, tmp_path / f"cache {number}", *sets(PIXELS)])
        assert "0.png" in said and "0.txt is not UTF-8 text: save it as UTF-8" in said
    some = write_pictures(tmp_path / "some", [GOOD, *WRONG, GOOD])
    assert prepare.main([str(some), str(tmp_path / "cache"), *sets(PIXELS)]) == 0
    assert "skipped     3 pictures" in capsys.readouterr().out
    assert (tmp_path / "cache" / SKIPPED).read_text().count("save it as UTF-8") == 3
    assert len(LatentCache(tmp_path / "cache")) == 2


def test_captions_that_are_missing_are_named(tmp_path, refused, capsys):
    none = write_pictures(tmp_path / "none", [None, None])
    for layout in ("captions", "auto"):
        said = refused(
            prepare.main, [none, tmp_path / layout, *sets(PIXELS), "--set", f"layout={layout}"]
        )
        assert "a .txt caption beside each picture" in said
    empty = write_pictures(tmp_path / "empty", [b" \n", b""])
    said = refused(prepare.main, [empty, tmp_path / "cache 1", *sets(PIXELS)])
    assert "0.txt is empty" in said
    some = write_pictures(tmp_path / "some", [GOOD, None, GOOD])
    assert prepare.main([str(some), str(tmp_path / "cache"), *sets(PIXELS)]) == 0
    assert "skipped     1 pictures" in capsys.readouterr().out
    assert "1.png\tit has no .txt caption" in (tmp_path / "cache" / SKIPPED).read_text()


def test_pictures_of_mixed_sizes_need_a_network_that_takes_them(tmp_path, train, capsys):
    pictures = write_pictures(tmp_path / "mixed", [GOOD] * 6, sizes=((16, 16), (16, 32)))
    aspect = PIXELS | {"size": 32, "buckets": "aspect", "step": 8}
    assert prepare.main([str(pictures), str(tmp_path / "cache"), *sets(aspect)]) == 0
    said = train(data__cache=tmp_path / "cache")
    assert "are of 2 shapes" in said and "buckets=square" in said
    square = PIXELS | {"size": 32}
    assert prepare.main([str(pictures), str(tmp_path / "square"), *sets(square)]) == 0
    assert len(LatentCache(tmp_path / "square").shape) == 3


@pytest.fixture
def host_for(tmp_path, monkeypatch):
    """Where the only ComfyUI is looked for."""
    monkeypatch.delenv(comfy_folder.VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(comfy_folder, "PACK", tmp_path / "elsewhere/pack")
    return tmp_path / "home/comfy/ComfyUI"


def write_host(folder: Path, version: str, needs: str = "a_package_that_nobody_has") -> None:
    (folder / "comfy").mkdir(parents=True, exist_ok=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "comfy/__init__.py").touch()
    (folder / "comfy/cli_args.py").write_text(f"import {needs}\n")


@pytest.fixture
def cache(tmp_path) -> Path:
    """Finished, of four pictures."""
    pictures = write_pictures(tmp_path / "pictures", [GOOD] * 4)
    assert prepare.main([str(pictures), str(tmp_path / "cache"), *sets(PIXELS)]) == 0
    return tmp_path / "cache"


def test_a_comfyui_that_is_not_there_or_too_old(tmp_path, cache, refused, host_for):
    (tmp_path / "empty.toml").touch()
    clip = tmp_path / "clip_l.safetensors"
    save_file({"text_model.encoder.layers.11.mlp.fc1.weight": torch.zeros(3072, 1)}, clip)
    model = {"comfy.checkpoint": tmp_path / "x.safetensors", "data.cache": cache}
    learn = [tmp_path / "empty.toml", *sets(model | {"run.out": tmp_path / "run"})]
    texts = PIXELS | {
        "size": 16,
        "channels": 3,
        "family": "sd3",
        "vae": clip,
        "text": f"['{clip}']",
    }
    make = [tmp_path / "pictures", tmp_path / "new", *sets(texts)]
    for main, arguments in ((finetune.main, learn), (prepare.main, make)):
        said = refused(main, arguments)
        assert "no ComfyUI found" in said and "main.py" in said and "COMFYUI_PATH" in said
    named = {"comfy.folder": tmp_path / "pictures"}
    assert "is not a ComfyUI folder" in refused(finetune.main, [*learn, *sets(named)])
    write_host(host_for, "0.3.63")
    for main, arguments in ((finetune.main, learn), (prepare.main, make)):
        said = refused(main, arguments)
        assert "is 0.3.63, and training needs 0.3.64 or newer: update it" in said
    assert not (tmp_path / "new").exists() and not (tmp_path / "run").exists()


def test_another_python_than_comfyui_s_is_told_which_to_use(tmp_path, cache):
    write_host(tmp_path / "ComfyUI", "0.29.0")
    (tmp_path / "empty.toml").touch()
    values = {"comfy.checkpoint": "x", "comfy.folder": tmp_path / "ComfyUI", "data.cache": cache}
    done = subprocess.run(
        [sys.executable, "-m", "training.finetune", tmp_path / "empty.toml", *sets(values)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "lacks a_package_that_nobody_has" in done.stderr
    assert "run the training with ComfyUI's own Python" in done.stderr


def test_full_memory_says_what_to_set_that_is_not_set_yet(train, tiny, monkeypatch):
    def exhausted(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore\nmore")

    out = Path(tiny.run.out)
    with monkeypatch.context() as patch:
        patch.setattr(step.Learner, "compute", exhausted)
        said = train(run__out=out / "1")
        assert said == (
            "error: the GPU's memory is full: set run.recompute = true, or raise optim.accumulate "
            "(it is 1), or set optim.optimizer = adamw_8bit, or lower data.batch_size (it is 8)"
        )
        small = {"data__batch_size": 1, "run__recompute": "true", "optim__schedule": "constant"}
        assert train(run__out=out / "2", optim__optimizer="schedule_free", **small).endswith(
            "memory is full: take a smaller network"
        )
    # The computer's own, really: a matrix of 120 GB.
    said = train(model__hidden_size=100_000, objective__kind="cfm", run__out=out / "3")
    assert "the computer's memory is full" in said and "lower data.batch_size" in said


def test_nan_in_a_checkpoint_is_told_from_too_high_a_rate(tmp_path, train, tiny, capsys):
    out = Path(tiny.run.out)
    assert finetune.main([str(tmp_path / "tiny.toml"), *sets({"optim.steps": 7})]) == 0
    (weights,) = out.glob("weights-*.safetensors")
    said = train("--resume", optim__lr=1e30, optim__clip="inf")
    assert "loss is not a finite number at step" in said or "gradient is not" in said
    assert "the last good checkpoint is" in said and "Try a lower optim.lr" in said
    assert finetune.main([str(tmp_path / "tiny.toml"), "--resume", *sets({"optim.steps": 9})]) == 0

    state = load_file(weights)
    name = next(name for name, value in state.items() if value.ndim == 2)
    state[name][0, 0] = torch.nan
    with safe_open(weights, framework="pt") as file:
        save_file(state, tmp_path / "nan.safetensors", file.metadata())
    arguments = sets({"model.checkpoint": tmp_path / "nan.safetensors", "run.out": out / "nan"})
    (tmp_path / "small.toml").write_text("[run]\ndevice = 'cpu'\n")
    capsys.readouterr()
    assert finetune.main([str(tmp_path / "small.toml"), *arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"nan.safetensors holds numbers that are not finite (in {name})" in said


def test_a_config_in_a_wrong_encoding(tmp_path, refused, tiny):
    file = tmp_path / "other.toml"
    file.write_bytes(dump(tiny).encode("utf-16"))
    assert "is not a TOML file" in refused(finetune.main, [file])


@pytest.mark.slow
def test_under_torchrun_one_process_says_it_and_none_waits(tmp_path, tiny):
    file = tmp_path / "tiny.toml"
    file.write_text(dump(tiny))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    command += ["-m", "training.finetune", file]
    for values, code, words in (
        ({"optim.steps": 2}, 0, "trained to step 2"),
        ({"data.batch_size": 3, "run.out": tmp_path / "other"}, 1, "use a multiple of 2"),
    ):
        done = subprocess.run(
            [*command, *sets(values)], cwd=ROOT, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == code, done.stderr
        said = done.stdout + done.stderr
        assert said.count(words) == 1, said
        assert str(ROOT / "training") not in said  # torchrun adds a traceback, of its own
