"""Text in a cache: exact, once per caption, restartable, and refusals in words."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator, nn

from sv_core.errors import InvalidInput
from tests.training.picture_files import contents, write_digits, write_photos
from training.caching import codec, encode
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data import text
from training.data.cache import LatentCache
from training.data.format import CacheFolder
from training.data.text import write_text
from training.prepare import main

FILES = {  # of each encoder a tensor of its last block, by which it is known
    "clip_l": ("text_model.encoder.layers.11.mlp.fc1.weight", 3072),
    "t5": ("encoder.block.23.layer.1.DenseReluDense.wi_1.weight", 10240),
    "umt5": ("encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight", 32),
    "qwen": ("model.layers.27.self_attn.k_proj.bias", 512),
    "another": ("model.layers.0.weight", 4),
}


def spoken(said, pad=0):
    """Numbers of a text's own, with ``pad`` rows of zeros behind them."""
    seed = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=4).digest(), "little")
    draw = Generator().manual_seed(seed)
    context = torch.randn(1 + len(said), 2000, generator=draw)
    context = torch.cat([context, torch.zeros(pad, 2000)])
    return {"context": context, "pooled": torch.randn(8, generator=draw)}


class Speaker:
    """In the text encoders' place; it remembers what it was asked."""

    def __init__(self, fail_at=None, pad=0):
        self.said, self.fail_at, self.pad, self.closed = [], fail_at, pad, False

    def __call__(self, said):
        self.said.append(said)
        if len(self.said) == self.fail_at:
            raise KeyboardInterrupt
        return spoken(said, self.pad)

    def close(self):
        self.closed = True


class Pool:
    """In a VAE's place: sixteen channels of every eighth pixel, of pictures or of videos."""

    model = nn.Identity()

    def encode(self, images):
        mean = images[..., ::8, ::8].mean(1, keepdim=True).repeat_interleave(16, 1)
        return mean, None


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Where files of text encoders lie; the networks themselves are stand-ins."""
    for name, (key, size) in FILES.items():
        save_file({key: torch.zeros(size, 1)}, tmp_path / f"{name}.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "vae.safetensors")
    monkeypatch.setattr(codec, "open_vae", lambda *_: Pool())
    monkeypatch.setattr(encode, "HostText", lambda *_: Speaker())
    monkeypatch.setattr(text, "PER_FILE", 4)
    return tmp_path


def config(folder, *encoders, family="sd3", **settings):
    files = tuple(str(folder / f"{name}.safetensors") for name in encoders)
    vae = str(folder / "vae.safetensors")
    return PrepareConfig(size=16, family=family, vae=vae, text=files, **settings)


def test_each_condition_has_its_text_and_the_empty_caption_comes_last(made, monkeypatch):
    root, speaker = write_digits(made / "digits", 40), Speaker(pad=3)
    monkeypatch.setattr(encode, "HostText", lambda *_: speaker)
    settings = config(made, "clip_l", "t5", template="a photo of {}")
    outcome = prepare(root, made / "cache", settings)
    assert outcome.texts == 3 and speaker.closed
    assert speaker.said == [f"a photo of {d}" for d in range(10)] + [""]  # each once
    cache = LatentCache(made / "cache")
    table = cache.require_text()
    assert len(table) == 11 and table.null == cache.num_classes == 10
    for k, said in enumerate(speaker.said):
        wanted, entry = spoken(said, pad=3), table[k]
        assert entry["context"].dtype == (torch.float16 if said else torch.float32)
        assert entry["context"].shape == wanted["context"].shape
        torch.testing.assert_close(
            entry["context"].float(), wanted["context"], rtol=1e-3, atol=1e-4
        )
        assert torch.equal(entry["pooled"], wanted["pooled"])
    with pytest.raises(IndexError):
        table[11]
    assert prepare(root, made / "cache", settings).nothing_to_do
    # Zeros at the end take no room.
    size = sum(p.stat().st_size for p in (made / "cache").glob("text-*"))
    assert size < 1.1 * sum(2 * 2000 * (1 + len(s)) for s in speaker.said) + 20000


def test_numbers_that_float16_cannot_hold_are_bfloat16(made):
    prepare(write_photos(made / "photos"), made / "cache", config(made))
    large = torch.linspace(-1e6, 1e6, 20000).view(20, 1000)
    mask = torch.tensor([1, 1, 0])
    write_text(CacheFolder.open(made / "cache"), [{"context": large, "attention_mask": mask}] * 3)
    entry = LatentCache(made / "cache").text[1]
    assert entry["context"].dtype == torch.bfloat16
    torch.testing.assert_close(entry["context"].float(), large, rtol=4e-3, atol=0)
    assert torch.equal(entry["attention_mask"], mask)
    with pytest.raises(FloatingPointError, match="not finite"):
        write_text(CacheFolder.open(made / "cache"), [{"context": large / 0}] * 3)


def test_text_may_be_added_and_a_kill_costs_only_what_was_not_written(made, monkeypatch):
    root, settings = write_digits(made / "digits", 40), config(made, "clip_l")
    prepare(root, made / "whole", settings)
    prepare(root, made / "cache", config(made))
    latents = {p: p.stat().st_mtime_ns for p in (made / "cache").glob("latents-*")}
    monkeypatch.setattr(encode, "HostText", lambda *_: Speaker(fail_at=7))
    with pytest.raises(KeyboardInterrupt):
        prepare(root, made / "cache", settings)
    with pytest.raises(InvalidInput, match="is not finished"):
        LatentCache(made / "cache")
    with pytest.raises(InvalidInput, match=r"the text in .* is not whole: finish it first"):
        prepare(root, made / "cache", config(made))
    with pytest.raises(InvalidInput, match="has text of other encoders"):
        prepare(root, made / "cache", config(made, "t5"))
    speaker = Speaker()
    monkeypatch.setattr(encode, "HostText", lambda *_: speaker)
    outcome = prepare(root, made / "cache", settings)
    assert (outcome.encoded, outcome.texts) == (0, 2) and len(speaker.said) == 7
    assert {p: p.stat().st_mtime_ns for p in latents} == latents
    assert contents(made / "cache") == contents(made / "whole")
    assert prepare(root, made / "cache", config(made)).nothing_to_do  # it keeps its text
    part = made / "cache" / "text-00001.safetensors"
    part.write_bytes(part.read_bytes()[:-10])
    assert prepare(root, made / "cache", settings).texts == 1
    assert contents(made / "cache") == contents(made / "whole")


def test_encoders_that_fail_bind_nothing(made, monkeypatch):
    root = write_digits(made / "digits", 20)

    def fail(*_):
        raise InvalidInput("no ComfyUI found")

    with monkeypatch.context() as patch:
        patch.setattr(encode, "HostText", fail)
        with pytest.raises(InvalidInput, match="no ComfyUI"):
            prepare(root, made / "cache", config(made, "clip_l"))
    assert prepare(root, made / "cache", config(made, "t5")).texts == 3
    with monkeypatch.context() as patch:
        patch.setattr(encode, "HostText", fail)
        with pytest.raises(InvalidInput, match="no ComfyUI"):
            prepare(root, made / "other", config(made, "clip_l"))
    assert prepare(root, made / "other", config(made)).index.complete
    assert LatentCache(made / "other").text is None


def test_the_vae_is_gone_before_the_text_encoders_come(made, monkeypatch):
    order = []
    close = codec.Codec.close
    monkeypatch.setattr(codec.Codec, "close", lambda self: (order.append("freed"), close(self)))
    monkeypatch.setattr(encode, "HostText", lambda *_: (order.append("text"), Speaker())[1])
    prepare(write_digits(made / "digits", 20), made / "cache", config(made, "clip_l"))
    assert order == ["freed", "text"]


def test_variants_are_conditions_with_text_of_their_own(made):
    root = write_photos(made / "photos")
    (root / "china.txt").write_text("a temple\nchina\n")
    (root / "flower.txt").write_text("a flower\na temple\n")
    prepare(root, made / "cache", config(made, "clip_l", captions="lines"))
    cache = LatentCache(made / "cache")
    assert cache.conditions == ["a flower", "a temple", "china"] and len(cache.text) == 4
    assert cache.labels.tolist() == [1, 0]
    rows = torch.tensor([0, 1] * 500)
    labels = cache.draw_labels(rows, Generator().manual_seed(0))
    assert set(labels[::2].tolist()) == {1, 2} and set(labels[1::2].tolist()) == {0, 1}
    assert abs((labels[::2] == 1).sum() - 250) < 50
    # Drawn as a temple, each has the other beside it; as itself, it is alone.
    assert cache.companions(0, 9, Generator()).tolist() == [0, 1]
    assert cache.companions(1, 9, Generator()).tolist() == [1]
    assert cache.companions(1, 9, Generator(), condition=1).tolist() == [1, 0]
    assert cache.pool(1, 9, Generator()).tolist() == [1, 0]
    other = config(made, "clip_l", captions="tags")
    with pytest.raises(InvalidInput, match=r"other settings .*captions = lines, now tags"):
        prepare(root, made / "cache", other)


def test_refusals_are_one_sentence(made, capsys):
    root = write_digits(made / "digits", 4)

    def refused(settings):
        with pytest.raises(InvalidInput) as e:
            prepare(root, made / "no", settings)
        assert "\n" not in str(e.value) and not (made / "no").exists()
        return str(e.value)

    assert "there is no file" in refused(config(made, "nothing"))
    (made / "torn.safetensors").write_bytes(b"12")
    assert "cannot be read as .safetensors" in refused(config(made, "torn"))
    flux = "takes CLIP-L and T5-XXL"
    assert "umt5.safetensors is UMT5-XXL, and family Flux " + flux in refused(
        config(made, "clip_l", "umt5", family="flux")
    )
    one = refused(config(made, "t5", family="flux"))
    assert "takes one file each of CLIP-L and T5-XXL, text= names T5-XXL" in one
    assert "names CLIP-L and CLIP-L" in refused(config(made, "clip_l", "clip_l"))
    assert "is no text encoder that is known here, and family Qwen-Image" in refused(
        config(made, "another", family="qwen_image")
    )
    assert "SD has none here" in refused(config(made, "clip_l", family="sd"))
    for template in ("a digit", "{} {}", "{0}", "{", "{name}"):
        assert "template must hold {} once" in refused(config(made, "clip_l", template=template))
    for encoders, family in ((("qwen",), "qwen_image"), (("umt5",), "wan21"), (("t5",), "sd3")):
        assert prepare(root, made / family, config(made, *encoders, family=family)).texts

    assert main([str(root), str(made / "x"), "--set", "text=clip_l.safetensors"]) == 2
    said = capsys.readouterr().err
    assert "set family= to one of Flux, SD3.5, Qwen-Image, Wan2.2 14B, Wan2.2 5B" in said


def test_what_is_wrong_with_the_text_of_a_cache_is_said(made):
    root, path = write_digits(made / "digits", 20), made / "cache"
    prepare(root, path, config(made))
    cache = LatentCache(path)
    assert cache.text is None and "text" not in cache.identity
    with pytest.raises(InvalidInput, match="holds no text, which this network is conditioned by"):
        cache.require_text()
    with pytest.raises(InvalidInput, match=r"has 10 conditions and needs 11 texts.*got 10"):
        write_text(CacheFolder.open(path), [spoken("")] * 10)
    write_text(CacheFolder.open(path), [spoken(str(k)) for k in range(11)])
    identity = LatentCache(path).identity
    write_text(CacheFolder.open(path), [spoken(str(k + 1)) for k in range(11)])
    other = LatentCache(path).identity
    assert identity.pop("text") != other.pop("text") and identity == other

    part = path / "text-00002.safetensors"
    whole = part.read_bytes()
    part.unlink()
    with pytest.raises(InvalidInput, match=r"text-00002.safetensors cannot be read .it is missing"):
        LatentCache(path)
    part.write_bytes(whole[:-5])
    with pytest.raises(InvalidInput, match=r"text-00002.safetensors cannot be read"):
        LatentCache(path)
    part.write_bytes((path / "text-00001.safetensors").read_bytes())
    with pytest.raises(InvalidInput, match=r"text-00002.safetensors"):
        LatentCache(path)
    part.write_bytes(whole)
    table = json.loads((path / "index.json").read_text())
    table["text"]["fingerprint"] = "another"
    (path / "index.json").write_text(json.dumps(table))
    assert CacheFolder.open(path).index.text.fingerprint == "another"
    with pytest.raises(InvalidInput, match="is from other text encoders"):
        LatentCache(path)
