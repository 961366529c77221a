"""Full weights come back under the file's names and in its precision."""

import pytest
import torch
from safetensors.torch import load_file

from tests.training.in_comfy import HOST, NEW, close, refused
from tests.training.networks.comfy.tiny_backbones import (
    FILES,
    OUT,
    SOURCES,
    VARIANTS,
    saved,
    variant,
    velocity_of,
)
from training.networks.comfy import load as comfy_load

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def test_full_weights_come_back_as_the_file_had_them():
    for name, source in SOURCES.items():
        files = {how: variant(source, f"{name} {how}", c) for how, c in VARIANTS.items()}
        for how, path in {"fp32": source, **files}.items():
            one = comfy_load.load(path, HOST, torch.float32)
            before, after = load_file(path), load_file(saved(one, "as it was"))
            assert before.keys() == after.keys(), (name, how, before.keys() ^ after.keys())
            for key, value in before.items():
                assert after[key].dtype == value.dtype, (name, how, key)
                assert torch.equal(after[key].float(), value.float()), (name, how, key)
            # Trained, they come back with the file's own precision, also those that outgrew it.
            one.unfreeze()
            generator = torch.Generator().manual_seed(9)
            with torch.no_grad():
                for p in one.model.parameters():
                    p.add_(torch.randn(p.shape, generator=generator), alpha=3 * float(p.std()))
            changed = {n: p.detach() for n, p in one.model.named_parameters()}
            again = comfy_load.load(saved(one, f"{name} {how}"), HOST, torch.float32)
            error = max(
                float((p.detach() - changed[n]).abs().max() / changed[n].abs().max())
                for n, p in again.model.named_parameters()
            )
            limit = {"fp32": 2e-6, "bf16": 2**-8, "fp16": 2**-11}.get(how, 2**-4)
            print(f"{name} saved in {how}: weights off by {error:.1e}")
            assert error <= limit, (name, how, error)
            v = velocity_of(comfy_load.load(OUT / f"saved {name} {how}.safetensors", HOST))
            close(v, velocity_of(again), 1e-5 if how == "fp32" else 0.3, f"{name} {how}")


def test_a_checkpoint_keeps_its_other_parts():
    path = FILES["sd3"]
    one = comfy_load.load(path, HOST)
    one.unfreeze()
    with torch.no_grad():
        for p in one.model.parameters():
            p.mul_(1.5)
    before, after = load_file(path), load_file(saved(one, "checkpoint"))
    assert before.keys() == after.keys()
    prefix = "model.diffusion_model."
    for key, value in before.items():
        changed = key.startswith(prefix) and not key.endswith("pos_embed")
        assert torch.equal(after[key], value * 1.5 if changed else value), key
    close(
        velocity_of(comfy_load.load(OUT / "saved checkpoint.safetensors", HOST)),
        velocity_of(one),
        2e-6,
    )
    gone = variant(path, "gone", lambda s: s)
    one = comfy_load.load(gone, HOST)
    gone.unlink()
    refused(one.weights, "cannot be read any more")


def test_flux_s_names_are_the_file_s():
    if not NEW:  # it does not rename them, and reads no small Flux file
        return
    one = comfy_load.load(FILES["flux"], HOST)
    renamed = {k: v for k, v in one.names.items() if k != v}
    assert renamed and all(k.endswith("_norm.scale") for k in renamed), renamed
    assert {k for k in one.weights() if k.endswith("_norm.scale")} == set(renamed)
