"""Safetensors files by ordinary reads and writes: streamed, with a checksum, and never mapped.

    8 bytes    n, the header's length, little-endian
    n bytes    JSON: {"__metadata__": {...}, name: {"dtype", "shape", "data_offsets"}, ...}
    the rest   the tensors' bytes, one after the other

The format is the safetensors library's, which reads these files. A file that is cut while it is
mapped kills its reader by SIGBUS; an ordinary read comes back short, which is a sentence. The
checksum is of the whole file, with zeros in its own place.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable

CHECKSUM = "checksum"
"""The key in the metadata; its value ends with the header's length."""
_PREFIX = b'{"__metadata__":{"checksum":"blake2b:'
_ZEROS = b"0" * 32
_BLOCK = 1 << 22
DTYPES = {
    "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32,
    "BF16": torch.bfloat16, "F16": torch.float16, "I16": torch.int16, "U8": torch.uint8,
    "I8": torch.int8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Writer(Protocol):
    """What ``write`` needs of a file."""

    def write(self, data: Any) -> Any: ...

    def seek(self, place: int) -> Any: ...


class Lazy(Mapping[str, Tensor]):
    """Tensors by name, each made anew whenever it is asked for: all at once may be too many."""

    def __init__(self, made_by: Mapping[str, Callable[[], Tensor]]):
        self._made_by = made_by

    def __getitem__(self, name: str) -> Tensor:
        return self._made_by[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._made_by)

    def __len__(self) -> int:
        return len(self._made_by)


def write(file: Writer, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write tensors into an empty file, one at a time; returns the checksum.

    Besides what ``tensors`` holds, memory is needed for one tensor only: ``tensors`` is asked twice
    for each, first for its dtype and shape.
    """
    forms = _forms(tensors)
    head = _header(forms, metadata)
    digest = hashlib.blake2b(head, digest_size=16)
    file.write(head)
    for name in forms:
        data = _bytes(tensors[name])
        digest.update(data)
        file.write(data)
    file.seek(8 + len(_PREFIX))
    file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """(dtype, shape) of each in the order of the file: larger numbers first, so all are aligned."""
    forms = {name: (x.dtype, x.shape) for name, x in tensors.items()}
    return dict(sorted(forms.items(), key=lambda form: (-form[1][0].itemsize, form[0])))


def _header(
    forms: Mapping[str, tuple[torch.dtype, torch.Size]], metadata: Mapping[str, str]
) -> bytes:
    blank = f"blake2b:{_ZEROS.decode()}/{0:08d}"
    others = {key: value for key, value in metadata.items() if key != CHECKSUM}
    table: dict[str, Any] = {"__metadata__": {CHECKSUM: blank, **others}}  # first: see _PREFIX
    start = 0
    for name, (dtype, shape) in forms.items():
        end = start + shape.numel() * dtype.itemsize
        table[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    place = len(_PREFIX) + len(_ZEROS) + 1
    text = text[:place] + f"{len(text):08d}".encode() + text[place + 8 :]
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


class Place(NamedTuple):
    """Where a tensor is in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """A safetensors file: its metadata, and its tensors or their rows when they are asked for."""

    def __init__(self, path: Path, remedy: str = "fetch or save it again"):
        """Raises OSError, or SafetensorError when it is cut short or something else.

        ``remedy`` is what sentences about damage that is found later end with.
        """
        with safe_open(path, framework="pt") as file:  # the library checks the header's form
            self.metadata: dict[str, str] = dict(file.metadata() or {})
        self.path, self.remedy = path, remedy
        with open(path, "rb") as file:
            head = file.read(8)
            head += file.read(int.from_bytes(head, "little"))
        self.checksum = _checksum(head, self.metadata.pop(CHECKSUM, None))
        table = json.loads(head[8:])
        table.pop("__metadata__", None)
        self.places = {
            name: Place(_dtype(x["dtype"]), tuple(x["shape"]), len(head) + x["data_offsets"][0])
            for name, x in table.items()
        }
        self._sound = self.checksum is None

    def __getitem__(self, name: str) -> Tensor:
        place = self.places[name]
        return self._read(place, place.start)

    def rows(self, name: str) -> "Rows":
        """A tensor of which rows are read."""
        return Rows(self, self.places[name])

    def verify(self) -> None:
        """Raise InvalidInput, in one sentence, when the file is not as it was written.

        A file without a checksum is not checked.
        """
        if self.checksum is None:
            return
        digest, place = hashlib.blake2b(digest_size=16), 8 + len(_PREFIX)
        with open(self.path, "rb") as file:
            head = file.read(place + len(_ZEROS))
            digest.update(head[:place] + _ZEROS)
            for block in blocks(file):
                digest.update(block)
        if head[place:].decode("latin-1") != digest.hexdigest():
            raise InvalidInput(
                f"{self.path} is damaged, its checksum is not that of its content: {self.remedy}"
            )

    def _read(self, place: Place, start: int) -> Tensor:
        """A part of the file as a tensor of a place's dtype and shape; verified at the first."""
        data = torch.empty(place.size, dtype=torch.uint8)
        try:
            if not self._sound:
                self.verify()
                self._sound = True
            with open(self.path, "rb", buffering=0) as file:
                file.seek(start)
                cut = not _fill(file, data.numpy().data)
        except OSError as e:
            reason = e.strerror or e
            raise Unavailable(f"cannot read {self.path}: {reason}; {self.remedy}") from e
        if cut:
            raise InvalidInput(f"{self.path} has been cut short since it was opened: {self.remedy}")
        return data.view(place.dtype).reshape(place.shape)


class Rows:
    """The rows of one tensor of a file, read from the disk when they are asked for."""

    def __init__(self, file: TensorFile, place: Place):
        self._file, self._place = file, place
        self.shape, self.dtype = place.shape, place.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: tuple[int, ...]) -> Tensor:
        """The part at these indices of the first axes."""
        part = self._place._replace(shape=self.shape[len(index) :])
        number = 0
        for i, size in zip(index, self.shape[: len(index)], strict=True):
            if not 0 <= i < size:
                raise IndexError(f"there is no row {index} in {self.shape}")
            number = number * size + i
        return self._file._read(part, self._place.start + number * part.size)

    def whole(self) -> Tensor:
        """All of them."""
        return self[()]


def _fill(file: Any, view: memoryview) -> bool:
    """Read as many bytes as the view has; whether there were so many."""
    while len(view):
        count = file.readinto(view)
        if not count:
            return False
        view = view[count:]
    return True


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise SafetensorError(f"numbers of the kind {name}, which are not read here")
    return DTYPES[name]


def _checksum(head: bytes, value: str | None) -> str | None:
    """The checksum, if it is of this very file: other tools copy metadata into files of theirs."""
    own = (
        value is not None
        and head[8:].startswith(_PREFIX)
        and value.endswith(f"/{len(head) - 8:08d}")
    )
    return value if own else None


def blocks(file: IO[bytes]) -> Iterable[bytes]:
    """What is left of a file, in parts that fit in memory."""
    while block := file.read(_BLOCK):
        yield block
