"""The emoji model's scripts: pictures, autoencoder, words, folded training, the packed file."""

import math
from pathlib import Path

import pytest
import torch
from PIL import ImageFont
from torch.nn import functional as F

from models.emoji import build, layout, pack, render, sheet, start, text, train, vae

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


@pytest.fixture
def font() -> ImageFont.FreeTypeFont:
    if not FONT.exists():
        pytest.skip(f"the font is not here ({FONT}): install fonts-noto-color-emoji")
    return ImageFont.truetype(FONT, render.GLYPH)


def test_the_set_is_large_enough_and_holds_what_is_asked(font):
    found = list(render.emoji(font))
    assert len(found) == len(set(found)) >= 300
    assert {chr(code) for codes in sheet.ASKED.values() for code in codes} <= set(found)
    named = {name: c for c in found for name in render.captions(c)}
    for words, codes in sheet.ASKED.items():
        assert ord(named[words]) in codes  # each word asked is one that was learnt


def test_a_picture_is_the_emoji_in_the_middle_of_white(font):
    picture = render.picture("\U0001f34e", font)
    assert picture.size == (64, 64) and picture.mode == "RGB"
    assert all(picture.getpixel(corner) == (255, 255, 255) for corner in ((0, 0), (63, 63)))
    red, green, blue = picture.getpixel((32, 40))
    assert red > 150 > max(green, blue)  # a red apple
    wide = render.picture("\U0001f34e", font, size=96)
    assert wide.size == (96, 96)


def test_pictures_lie_beside_their_names(font, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "BLOCKS", ((0x1F60D, 0x1F60E),))
    assert render.main([str(FONT), str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "1f60d.png", "1f60d.txt", "1f60e.png", "1f60e.txt",
    ]  # fmt: skip
    assert (tmp_path / "out/1f60d.txt").read_text().splitlines() == [
        "smiling face with heart shaped eyes", "smiling face with heart eyes",
    ]  # fmt: skip
    pictures = vae.load_pictures(tmp_path / "out")
    assert pictures.shape == (2, 3, 64, 64) and pictures.max() == 1


def test_a_file_that_is_no_font_is_said(tmp_path, capsys):
    (tmp_path / "a.ttf").write_text("no font")
    assert render.main([str(tmp_path / "a.ttf"), str(tmp_path / "out")]) == 2
    assert "is no font that can be drawn" in capsys.readouterr().err


def smooth(count: int) -> torch.Tensor:
    """Pictures whose patches have few directions."""
    torch.manual_seed(0)
    return F.interpolate(torch.rand(count, 3, 8, 8), scale_factor=8.0, mode="bilinear")


def test_both_halves_begin_as_principal_components():
    pictures = smooth(30)
    encoder, decoder = vae.Encoder(), vae.StandIn()
    vae.begin(encoder, decoder, pictures)
    with torch.no_grad():
        made = decoder(encoder(pictures))
    patches = F.pixel_unshuffle(pictures, 8).movedim(1, -1).flatten(0, -2)
    _, values, _ = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    best = -10 * math.log10(float(values[16:].square().sum()) / patches.numel())
    assert best - 1.5 < vae.psnr(made, pictures) < best + 0.5


def test_latents_are_standardised_per_channel():
    pictures, encoder = smooth(20), vae.Encoder()
    vae.standardise(encoder, pictures)
    with torch.no_grad():
        z = encoder(pictures).movedim(1, 0).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(1), torch.ones(16), rtol=1e-4, atol=0)


def test_the_layout_s_first_layers_are_the_patches():
    encoder, picture = vae.Encoder(), torch.rand(2, 3, 32, 48)
    state = layout.taesd(encoder, vae.Decoder())

    def conv(x, number, stride):
        name = f"taesd_encoder.{number}"
        bias = state.get(f"{name}.bias")
        return F.conv2d(x, state[f"{name}.weight"], bias, stride=stride, padding=1)

    x = conv(picture, 0, 1)
    for number in (2, 6, 10):
        x = conv(x, number, 2)
    torch.testing.assert_close(x, encoder.patches(picture).detach())
    assert all(value.shape == (64, 64, 3, 3) for name, value in state.items()
               if name.endswith("conv.2.weight"))  # fmt: skip


def test_words_are_told_apart_and_padding_says_nothing():
    state = text.clip_l()
    words = state["text_model.embeddings.token_embedding.weight"]
    assert words.shape == (49408, 768) and not words[text.BEGIN :].any()
    some = F.normalize(words[:40000:400].float(), dim=1)
    assert (some @ some.T).fill_diagonal_(0).abs().max() < 0.2
    mirror = state["text_model.encoder.layers.11.self_attn.v_proj.weight"].float()
    assert torch.equal(mirror @ mirror, torch.eye(768))
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
            for value in state.values()}  # fmt: skip
    assert sum(held.values()) < 200_000 < sum(value.numel() for value in state.values())


def test_equal_keys_count_as_one_that_weighs_more():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 1, 5, 8).unbind()

    def usual(q, k, v, heads, mask=None):
        q, k, v = (x.movedim(2, 1) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    q, k, v = (x.movedim(1, 2) for x in (q, k, v))  # (b, n, heads, d)
    again = [torch.cat([x[:, :2], x[:, 1:2].expand(-1, 6, -1, -1), x[:, 2:]], 1) for x in (k, v)]
    whole = usual(q, *again, 1)
    folded = train.counting(1, 7)(usual, q, k, v, 1)
    torch.testing.assert_close(folded, whole)
    assert not torch.allclose(usual(q, k, v, 1), whole)


class Table(list):
    """Texts as a cache hands them out."""


def test_folded_texts_keep_every_word_and_one_of_the_rest():
    contexts = [torch.zeros(77, 4) for _ in range(3)]
    contexts[0][:3], contexts[1][:5] = 1.0, 2.0
    folded = train.Folded(Table({"context": c} for c in contexts), 3)
    assert folded.times == 72
    for k, context in enumerate(contexts):
        assert torch.equal(folded[k]["context"], context[:6])


def test_a_packed_file_is_small_and_holds_tensors_only(tmp_path):
    weights = {"model.diffusion_model.x": torch.randn(3), "first_stage_model.old": torch.zeros(1)}
    file = tmp_path / "emoji.ckpt"
    pack.write(file, pack.packed(weights, {"y": torch.ones(2)}))
    assert file.stat().st_size < 300_000
    state = torch.load(file, weights_only=True)["state_dict"]
    assert state["model.diffusion_model.x"].dtype == torch.float16
    assert torch.equal(state["first_stage_model.y"], torch.ones(2).half())
    assert "first_stage_model.old" not in state
    assert torch.equal(start.taken(file)["x"], weights["model.diffusion_model.x"].half().float())
    words = "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight"
    assert torch.equal(state[words], text.clip_l()[words.removeprefix(
        "text_encoders.clip_l.transformer.")])  # fmt: skip


def test_the_nearest_picture_is_found():
    torch.manual_seed(0)
    pictures = torch.rand(5, 3, 64, 64)
    assert sheet.nearest(pictures[3] + 0.1 * torch.randn(3, 64, 64), pictures) == 3
    image = sheet.sheet([(pictures[0], pictures[1])] * 5)
    assert image.size == (2 * 4 * 144, 2 * 2 * 80)


def test_a_build_goes_on_where_it_was(tmp_path):
    made = list(build.steps(Path("font.ttf"), None, tmp_path))
    assert [step.command[0] for step in made] == [
        "models.emoji.render", "models.emoji.vae", "models.emoji.text", "training.prepare",
        "models.emoji.start", "models.emoji.train",
    ]  # fmt: skip
    assert "--resume" not in made[-1].command
    state = tmp_path / build.RUN / "state-000500.json"
    state.parent.mkdir(parents=True)
    state.touch()
    assert "--resume" in list(build.steps(Path("font.ttf"), None, tmp_path))[-1].command
    with pytest.raises(ValueError, match="no weights yet"):
        build.newest(state.parent)
    for step in (500, 1000):
        (state.parent / f"weights-{step:06d}.safetensors").touch()
    (state.parent / "weights-001000-ema0.99.safetensors").touch()
    assert build.newest(state.parent).name == "weights-001000.safetensors"
