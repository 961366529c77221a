"""The user's own file of a family that ComfyUI loads as a backbone, by ComfyUI's model code."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.models import families, interval
from sv_core.models.interval import IntervalEmbedder

from ...config.schema import ComfyConfig
from ...data.dataset import Dataset
from ...files import read_weights
from .backbone import ComfyBackbone, blank, wrap
from .families import span_of, trained_family
from .file import ModelFile, beside, dequantised, host_metadata, known_to, read
from .folder import find
from .host import Host, open_host
from .self_check import self_check
from .texts import Texts, empty_text


def load(
    path: Path,
    host: Host,
    dtype: torch.dtype | None = None,
    *,
    texts: Texts | None = None,
    guidance: float = 1.0,
    expert: str | None = None,
) -> ComfyBackbone:
    """A backbone from a diffusion model's or a checkpoint's file, frozen, in the CPU's memory.

    Weights are kept as stored, or in ``dtype`` (scaled fp8 is then multiplied out). ``guidance`` is
    the input of a distilled network such as Flux-dev: at 1 its output is the plain velocity, with
    which training compares it; at 3.5 it is a velocity with guidance.
    Raises InvalidInput, in one sentence, when the file is damaged or of no family that is known.
    """
    file, part = read(path, host)
    base = _build(file, part, host, dtype)
    if base.manual_cast_dtype == torch.float16:  # in which gradients underflow
        base.manual_cast_dtype = torch.bfloat16
    family = trained_family(base)
    if family is None:
        raise InvalidInput(
            f"{path} is a model of the kind that ComfyUI calls {type(base).__name__}, which cannot "
            f"be trained here: use one of {families.names('layout')}"
        )
    names = _names(base, file)
    own = [n for n in base.diffusion_model.state_dict() if not beside(n)]
    lacking = sorted(set(own) - set(names.values()))
    if lacking:
        raise InvalidInput(
            f"{path} lacks {len(lacking)} tensors of a {family.name} model, such as {lacking[0]}: "
            f"it is damaged or cut short, fetch or save it again"
        )
    backbone = wrap(base, family, file, host, names)
    backbone = replace(backbone, guidance=guidance, span=span_of(path, family, expert))
    _refuse_pictures(backbone)
    return backbone if texts is None else backbone.reading(texts)


def build(config: ComfyConfig, data: Dataset, device: torch.device) -> ComfyBackbone:
    """The network of [comfy], for the data; its own weights are to be trained where they can be.

    In the CPU's memory. Raises InvalidInput, in one sentence, when it cannot be had or does not fit
    the data, Unfit when this ComfyUI's derivatives are wrong.
    """
    host = open_host(find(config.folder), device)
    backbone = load(
        Path(str(config.checkpoint)),
        host,
        {"file": None, "bf16": torch.bfloat16, "fp32": torch.float32}[config.dtype],
        texts=data.require_text(),
        guidance=config.guidance,
        expert=config.expert,
    )
    data.require_latent(backbone.latent, str(config.checkpoint))
    self_check(backbone, host)
    if backbone.trainable:
        backbone.unfreeze()
    return backbone


def with_interval(backbone: ComfyBackbone, seed: int, begun: Path | None = None) -> ComfyBackbone:
    """The backbone with an interval embedder in float32, which is always trained.

    A new one does not change the output yet and depends on the seed alone; ``begun`` is the file of
    one to go on with. It becomes a part of the network: call this after ``lora.inject``, whose
    patterns must not match it. Raises InvalidInput, in one sentence, for a file of something else.
    """
    network, family = backbone.base.diffusion_model, backbone.family.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedder = IntervalEmbedder(interval.width(interval.time_embedding(network, family)))
    if begun is not None:
        state, metadata = read_weights(begun)
        try:
            embedder, stated = interval.from_file(state, metadata)
            interval.require_fit(embedder, stated, network, family)
        except InvalidInput as e:
            raise InvalidInput(f"{begun}: {e}") from e
    place = interval.PREFIX.removesuffix(".")
    network.register_module(place, embedder)
    # As all buffers, see ``wrap``.
    buffers = [f"{place}.{name}" for name, _ in embedder.named_buffers()]
    network._ddp_params_and_buffers_to_ignore = [
        *network._ddp_params_and_buffers_to_ignore,
        *buffers,
    ]
    return replace(backbone, embedder=embedder)


def _build(file: ModelFile, part: dict[str, Tensor], host: Host, dtype: torch.dtype | None) -> Any:
    """ComfyUI's whole model. Raises InvalidInput, in one sentence, when it knows no such file."""
    load_state = host.sd.load_diffusion_model_state_dict
    known = inspect.signature(load_state).parameters
    options: dict[str, Any] = {"metadata": host_metadata(file), "disable_dynamic": True}
    if file.quantisation and dtype is not None:
        part, options["metadata"] = dequantised(file, part, dtype), {}
    elif not known_to(file, host):
        raise InvalidInput(
            f"{file.path} is quantised in a way that this ComfyUI does not know: update ComfyUI, "
            f"or set comfy.dtype = bf16"
        )
    elif not file.quantisation:
        dtype = dtype or file.dtype
    try:
        patcher = load_state(
            dict(part),
            model_options={} if dtype is None else {"dtype": dtype},
            **{name: value for name, value in options.items() if name in known},
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # its detection fails with any exception on files of other kinds
        raise _unknown(file.path) from e
    if patcher is None or not isinstance(patcher.model.model_sampling, host.sampling.CONST):
        raise _unknown(file.path)
    return patcher.model


def _unknown(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is no flow model that this ComfyUI knows: name a diffusion model or a checkpoint "
        f"of {families.names('layout', ' or ')}"
    )


def _names(base: Any, file: ModelFile) -> dict[str, str]:
    """The file's names -> the network's, where ComfyUI does nothing but rename."""
    marks = {name: torch.empty(0, device="meta") for name in file.dtypes if not beside(name)}
    renamed = base.model_config.process_unet_state_dict(dict(marks))
    back = {id(mark): name for name, mark in renamed.items()}
    own = base.diffusion_model.state_dict().keys()
    return {name: back[id(mark)] for name, mark in marks.items() if back.get(id(mark)) in own}


def _refuse_pictures(backbone: ComfyBackbone) -> None:
    """Raises InvalidInput for a network that takes a picture beside the text."""
    (x, t), entry = blank(backbone, "cpu"), empty_text(backbone.family, backbone.model, "cpu")
    _, options = backbone.inputs(x, t, entry)
    if "c_concat" in options:
        raise InvalidInput(
            f"{backbone.file.path} continues or fills in a given picture, which the training data "
            f"do not have: use the text-to-image or text-to-video file of {backbone.family.name}"
        )
