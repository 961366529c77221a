"""The conditions as text encoders see them: files of a cache, written once, read by number.

    text-00000.safetensors    000017.context (L, D), 000017.pooled (P,), ... of each condition

The last entry of all is that of the empty caption. Rows of zeros at the end of a context are left
out of the file and put back when it is read: Wan pads every text to 512 rows with them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from sv_core.errors import InvalidInput

from ..files import save_weights
from ..tensors import TensorFile
from .format import REMEDY, CacheFolder, Index, TextSpec, shard_path

TEXT = "text"
PER_FILE = 64
_SMALL = 1 << 14  # numbers: what is no larger stays float32
Entry = Mapping[str, Tensor]


class TextTable:
    """``table[k]`` is what the encoders made of condition k, read from the disk when asked for.

    Tensors are float16, bfloat16 or float32 on the CPU, without a batch axis: ``context`` (L, D),
    for some families ``pooled`` (P,) and ``attention_mask`` (L,). ``table[table.null]`` is the
    empty caption, for conditions that were dropped.
    """

    def __init__(self, cache: Path, spec: TextSpec, conditions: int):
        """Raises InvalidInput when a file of it is missing or of other encoders."""
        self.null = conditions
        self.fingerprint = spec.fingerprint
        self._parts = [
            _opened(cache, number, part, spec) for number, part in enumerate(_parts(conditions))
        ]

    def __len__(self) -> int:
        return self.null + 1

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        if not 0 <= k <= self.null:
            raise IndexError(f"there is no condition {k}, the last one is {self.null}")
        file, names, lengths = self._parts[k // PER_FILE]
        entry = {}
        for key in names[k]:
            value = file[key]
            length = lengths.get(key, len(value))
            if length > len(value):  # not by cat: autocast on a CPU knows none of float16
                kept, value = value, value.new_zeros(length, *value.shape[1:])
                value[: len(kept)] = kept
            entry[key.partition(".")[2]] = value
        return entry


def texts_of(index: Index, template: str) -> list[str]:
    """The texts to encode: each caption, or the template with each class's name; last, ""."""
    captions = index.settings["layout"] == "captions"
    return [c if captions else template.format(c) for c in index.conditions] + [""]


def missing(folder: CacheFolder) -> list[int]:
    """The numbers of the text files that are missing or damaged."""
    spec, absent = folder.index.text, []
    assert spec is not None
    for number, part in enumerate(_parts(len(folder.index.conditions))):
        try:
            _opened(folder.path, number, part, spec, folder.verify)
        except InvalidInput:
            absent.append(number)
    return absent


def encode(folder: CacheFolder, numbers: Sequence[int], encoder: Callable[[str], Entry]) -> None:
    """Make those text files. Raises Unavailable or FloatingPointError, in one sentence."""
    spec = folder.index.text
    assert spec is not None
    texts = texts_of(folder.index, spec.template)
    parts = list(_parts(len(folder.index.conditions)))
    done = sum(len(part) for number, part in enumerate(parts) if number not in numbers)
    with tqdm(total=len(texts), initial=done, desc="text", unit="caption") as bar:
        for number in numbers:
            entries = {}
            for k in parts[number]:
                entries[k] = encoder(texts[k])
                bar.update()
            _write(folder, number, entries, spec)


def write_text(folder: CacheFolder, entries: Sequence[Entry]) -> None:
    """Give a cache texts that were encoded elsewhere: of each condition, then the empty caption.

    Raises InvalidInput, in one sentence, when they are not as many.
    """
    conditions = len(folder.index.conditions)
    if len(entries) != conditions + 1:
        raise InvalidInput(
            f"{folder.path} has {conditions} conditions and needs {conditions + 1} texts, the last "
            f"one that of the empty caption, got {len(entries)}"
        )
    digest = hashlib.blake2b(digest_size=8)
    for entry in entries:
        for name, value in sorted(entry.items()):
            digest.update(name.encode() + value.float().numpy().tobytes())
    spec = TextSpec(digest.hexdigest(), "{}")
    for number, part in enumerate(_parts(conditions)):
        _write(folder, number, {k: entries[k] for k in part}, spec)
    folder.update(text=spec)


def _parts(conditions: int) -> Iterator[range]:
    """The numbers of the texts in each file; the empty caption counts."""
    for start in range(0, conditions + 1, PER_FILE):
        yield range(start, min(start + PER_FILE, conditions + 1))


def _write(folder: CacheFolder, number: int, entries: Mapping[int, Entry], spec: TextSpec) -> None:
    tensors, lengths = {}, {}
    for k, entry in entries.items():
        for name, value in entry.items():
            key = f"{k:06d}.{name}"
            stored = _rounded(value.detach().cpu())
            rows = _rows(stored) if name == "context" else len(stored)
            if rows < len(stored):
                lengths[key] = len(stored)
            tensors[key] = stored[:rows].clone()
    facts = {"fingerprint": spec.fingerprint, "template": spec.template, "lengths": lengths}
    save_weights(folder.shard(TEXT, number), tensors, {TEXT: json.dumps(facts)})


def _rounded(value: Tensor) -> Tensor:
    """As float16 if that is finite, else bfloat16; small tensors and integers unchanged."""
    if not value.is_floating_point():
        return value
    if not torch.isfinite(value).all():
        raise FloatingPointError(
            "the text encoder gives numbers that are not finite: use another file of it"
        )
    if value.dtype == torch.bfloat16 or value.numel() <= _SMALL:
        return value
    half = value.half()
    return half if torch.isfinite(half).all() else value.bfloat16()


def _rows(context: Tensor) -> int:
    """How many rows are left without the rows of zeros at the end; at least one."""
    used = torch.nonzero(context.flatten(1).any(1))
    return int(used[-1]) + 1 if len(used) else 1


def _opened(cache: Path, number: int, part: range, spec: TextSpec, verify: bool = False) -> tuple:
    """(the open file, the keys of each condition, the lengths of what was shortened)."""
    path = shard_path(cache, TEXT, number)
    try:
        file = TensorFile(path, REMEDY)
        if verify:
            file.verify()
        facts = json.loads(file.metadata[TEXT])
        names: dict[int, list[str]] = {k: [] for k in part}
        for key in file.places:
            names[int(key.partition(".")[0])].append(key)
        fits = TextSpec(facts["fingerprint"], facts["template"]) == spec and all(names.values())
        lengths = facts["lengths"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as e:
        reason = "it is missing" if isinstance(e, FileNotFoundError) else f"{e}"
        raise InvalidInput(
            f"the text in {path} cannot be read ({reason}): remove it and run training.prepare "
            f"again with the same text=, which makes that file anew"
        ) from e
    if not fits:
        raise InvalidInput(
            f"the text in {path} is from other text encoders or of other captions than the rest of "
            f"the cache: remove it and run training.prepare again with the same text="
        )
    return file, names, lengths
