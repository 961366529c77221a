"""Inputs that no node can use, of every kind that a graph, a prompt or a file can hold.

Each is given to each input of its type. Whatever comes of it, it is a result or one sentence.
"""

import inspect
import os
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from tests.nodes.changed_host import CONDITIONS, EULER, GRID, SHAPE, Bench
from tests.nodes.loaded_pack import MODEL, sample

NAN, INF = float("nan"), float("inf")
FLOATS = (NAN, INF, -INF, -1.0, -0.0, 0.0, 1e-320, 1.0000001, 2.0, 1e300, -1e300)
INTS = (0, -1, 1, 10**6, 2**31, 2**63, 2**64 - 1, 2**64, 2**70, -(2**70))
TEXTS = (
    *("", " ", "\0", "a\0b", "../../x", "/etc/passwd", "C:\\x", "CON", "\n\n", "." * 50),
    *("x" * 300, "ü" * 200, "😀" * 100, "\ud800", "9" * 5000, "0-99999," * 2000, "0 1 " * 5000),
    *("0," * 8000 + "0", "-", "1e5", "[" * 10_000, "٣", "NaN", "0 2 4 7", "0 40", "{}", "True"),
)
SIGMAS = {
    "none": torch.zeros(0),
    "one": GRID[:1],
    "one of 0": torch.zeros(1),
    "a number": torch.tensor(0.5),
    "two rows": GRID[None],
    "not numbers": GRID * NAN,
    "infinite": torch.tensor([INF, 1.0, 0.0]),
    "upside down": GRID.flip(0),
    "all the same": torch.ones(9),
    "one twice": torch.tensor([1.0, 0.5, 0.5, 0.0]),
    "times 1000": GRID * 1000,
    "times 14.6": GRID * 14.6,
    "below 0": GRID - 0.5,
    "whole numbers": (GRID * 1000).long(),
    "complex": GRID * 1j,
    "half precision": GRID.half(),
    "a million": torch.linspace(1, 0, 10**6),
    "2,000 steps": torch.linspace(1, 0, 2001),
    "near 0": GRID * 1e-30,
    "ends above 0": GRID[:5],
    "booleans": GRID > 0.5,
    "a list": [1.0, 0.5, 0.0],
}
NOT_THROUGH_THE_HOST = {"a number", "two rows", "complex", "booleans", "a list"}
"""SIGMAS with which the host's own run fails before it comes to any sampler."""
LATENTS = {
    "nothing": {},
    "None": None,
    "a list": [1],
    "no samples": {"samples": None},
    "none": {"samples": torch.zeros(0, 4, 16, 16)},
    "no pixels": {"samples": torch.zeros(1, 4, 0, 0)},
    "not numbers": {"samples": torch.full(SHAPE, NAN)},
    "three axes": {"samples": torch.zeros(4, 16, 16)},
    "one axis": {"samples": torch.zeros(16)},
    "other channels": {"samples": torch.zeros(1, 16, 16, 16)},
    "60000 squared": {"samples": torch.zeros(1).expand(1, 16, 60_000, 60_000)},
    "whole numbers": {"samples": torch.zeros(SHAPE, dtype=torch.long)},
}
IMAGES = {
    "none": torch.zeros(0, 12, 12, 3),
    "no pixels": torch.zeros(2, 0, 12, 3),
    "no channels": torch.zeros(2, 12, 12, 0),
    "not numbers": torch.full((2, 12, 12, 3), NAN),
    "1e30": torch.full((2, 12, 12, 3), 1e30),
    "below 0": torch.full((2, 12, 12, 3), -5.0),
    "1 wide": torch.rand(2, 30_000, 1, 3),
    "1 high": torch.rand(2, 1, 30_000, 3),
    "grey": torch.rand(2, 12, 12, 1),
    "with alpha": torch.rand(2, 12, 12, 4),
    "three axes": torch.rand(12, 12, 3),
    "bytes": torch.zeros(2, 12, 12, 3, dtype=torch.uint8),
    "too many": torch.zeros(1).expand(300, 4096, 4096, 3),
}
CONDITIONINGS = {
    "none": [],
    "of text": [[torch.zeros(1, 77, 768), {}]],
    "no tensor": [[None, {}]],
    "a class that is not": [[torch.full((1, 1, 1), 1e6), {}]],
    "no numbers": [[torch.zeros(0, 1, 1), {}]],
}


class Case(NamedTuple):
    """One bad input."""

    label: str
    run: Callable[[], Any]
    needs_sense: bool = True
    """Whether a result that holds other things than numbers is a wrong one."""


class Inputs:
    """Good inputs of every node by its schema, and the bad ones in their place."""

    def __init__(self, bench: Bench, nodes: dict[str, Any]):
        self.bench, self.nodes = bench, nodes
        self.calibration = nodes["StableVSCalibrationLoader"].execute("kept.json").args[0]
        loaded = nodes["SiTLoader"].execute("sit.safetensors", 3.0, "auto").args[0]
        self.counts = nodes["CountCalls"].execute(MODEL).args[1]
        self.models = {"SiTClassCondition": loaded, "MeanFlowLoader": bench.trials.embedded}

    def good(self, node: str) -> dict[str, Any]:
        """Inputs with which the node works."""
        made = {}
        for wanted in self.nodes[node].GET_SCHEMA().inputs:
            value = self._good_value(node, wanted)
            if value is not None:
                made[wanted.id] = value
        if node == "StableVSCalibrate":
            made |= {"runs": 1, "calls": 6, "name": "bad_inputs"}
            made.pop("guider", None)
        return made

    def _good_value(self, node: str, wanted: Any) -> Any:
        kind, default = wanted.get_io_type(), getattr(wanted, "default", None)
        if default is not None:
            return default
        if kind == "COMBO":
            files = {"checkpoint": "sit", "embedder": "embedder", "calibration": "kept"}
            ending = "json" if wanted.id == "calibration" else "safetensors"
            name = files.get(wanted.id)
            return f"{name}.{ending}" if name else wanted.options[0]
        if kind.startswith("COMFY_DYNAMICCOMBO"):
            return self.choice(wanted, 0)
        return {
            "MODEL": self.models.get(node, MODEL),
            "SIGMAS": GRID,
            "LATENT": {"samples": torch.zeros(SHAPE)},
            "CONDITIONING": CONDITIONS[0],
            "CALIBRATION": self.calibration,
            "IMAGE": torch.rand(2, 12, 12, 3),
            "CALL_COUNTS": self.counts,
        }.get(kind)

    @staticmethod
    def choice(wanted: Any, number: int) -> dict[str, Any]:
        """What a node gets of a drop-down that brings inputs of its own."""
        option = wanted.options[number]
        return {wanted.id: option.key} | {i.id: getattr(i, "default", None) for i in option.inputs}

    def bad_values(self, node: str, wanted: Any) -> Iterator[tuple[str, Any]]:
        """Values of an input's type that it cannot use, or hardly."""
        kind = wanted.get_io_type()
        if kind.startswith("COMFY_DYNAMICCOMBO"):
            for number, option in enumerate(wanted.options):
                for part in option.inputs:
                    for label, value in self.bad_values(node, part):
                        yield (
                            f"{option.key} {label}",
                            self.choice(wanted, number) | {part.id: value},
                        )
            return
        tables = {"SIGMAS": SIGMAS, "LATENT": LATENTS, "IMAGE": IMAGES}
        tables["CONDITIONING"], tables["MODEL"] = CONDITIONINGS, self._models()
        tables["CALIBRATION"] = self._calibrations()
        if kind in tables:
            yield from tables[kind].items()
        for value in {"FLOAT": FLOATS, "INT": INTS, "STRING": TEXTS, "COMBO": TEXTS}.get(kind, ()):
            yield repr(value)[:40], value

    def _models(self) -> dict[str, Any]:
        eps = ModelSamplingDiscrete().patch(MODEL, "eps", False)[0]
        return {"another kind": eps}

    def _calibrations(self) -> dict[str, Any]:
        good = self.calibration
        return {
            "of another model": replace(good, shapes="0" * 16),
            "of another grid": replace(good, sigmas=good.sigmas[::2]),
            "beyond its grid": replace(good, nodes={6: (0, 1, 2, 3, 4, 99)}),
            "without lists": replace(good, nodes={}),
        }

    def cases(self) -> Iterator[Case]:
        """All of them."""
        for node, made in self.nodes.items():
            for wanted in made.GET_SCHEMA().inputs:
                for label, value in self.bad_values(node, wanted):
                    change = {wanted.id: value}
                    yield Case(
                        f"{node}, {wanted.id}: {label}",
                        lambda node=node, change=change: self.use(node, change),
                    )
            yield from self._sampling(node)
        yield from self._files()

    def _sampling(self, node: str) -> Iterator[Case]:
        kinds = [o.get_io_type() for o in self.nodes[node].GET_SCHEMA().outputs]
        if "SAMPLER" in kinds or node in ("FewerCalls", "CoarseFirst"):
            for label, sigmas in SIGMAS.items():
                # A million steps of the host's own sampler, which is left alone, take as long.
                if label not in (*NOT_THROUGH_THE_HOST, "a million" if "MODEL" in kinds else ""):
                    yield Case(
                        f"{node}, run over sigmas: {label}",
                        lambda node=node, sigmas=sigmas: self.use(node, {}, sigmas),
                        # A run that ends where there is only noise is divided by 0 by the host.
                        needs_sense=kinds[0] == "SAMPLER" and label != "one",
                    )

    def use(self, node: str, changes: dict[str, Any], sigmas: Any = GRID) -> Any:
        """Check, fingerprint and run a node as the host does, and what it makes over ``sigmas``."""
        made, given = self.nodes[node], self.good(node) | changes
        for name in ("validate_inputs", "fingerprint_inputs"):
            if getattr(made, name).__func__ is not getattr(io.ComfyNode, name).__func__:
                _call_with_its_own(getattr(made, name), given)
        return self.apply(node, made.execute(**given).args, sigmas)

    def apply(self, node: str, outputs: tuple, sigmas: Any) -> Any:
        kinds = [o.get_io_type() for o in self.nodes[node].GET_SCHEMA().outputs]
        if kinds[0] == "SAMPLER":
            model = self.bench.trials.meanflow if node == "MeanFlowSampler" else MODEL
            return sample(outputs[0], sigmas, shape=SHAPE, model=model)
        if node in ("FewerCalls", "CoarseFirst"):
            return sample(EULER, sigmas, shape=SHAPE, model=outputs[0])
        return outputs[0]

    def _files(self) -> Iterator[Case]:
        """Files that are damaged, of another kind, or no files."""
        places = {
            "SiTLoader": ("models", "sit.safetensors"),
            "MeanFlowLoader": ("models", "embedder.safetensors"),
            "StableVSCalibrationLoader": ("output/stable_velocity", "kept.json"),
        }
        for node, (folder, name) in places.items():
            place, changes = self.bench.folder / folder, self._damages(node)
            whole = (place / name).read_bytes()
            for label, make in changes.items():
                bad = place / f"bad{Path(name).suffix}"
                yield Case(
                    f"{node}, file: {label}",
                    lambda node=node, bad=bad, make=make, whole=whole: self._with(
                        node, bad, make, whole
                    ),
                )

    def _with(self, node: str, bad: Path, make: Callable[[Path, bytes], Any], whole: bytes) -> Any:
        wanted = {"SiTLoader": "checkpoint", "MeanFlowLoader": "embedder"}.get(node, "calibration")
        make(bad, whole)
        try:
            return self.use(node, {wanted: bad.name})
        finally:
            _remove(bad)

    def _damages(self, node: str) -> dict[str, Callable[[Path, bytes], Any]]:
        made: dict[str, Callable[[Path, bytes], Any]] = {
            "empty": lambda p, b: p.write_bytes(b""),
            "half of it": lambda p, b: p.write_bytes(b[: len(b) // 2]),
            "a page of the web": lambda p, b: p.write_text("<html></html>"),
            "a pickle": lambda p, b: p.write_bytes(pickle.dumps({"a": 1})),
            "nested deeply": lambda p, b: p.write_bytes(b"[" * 200_000),
            "a huge header": lambda p, b: p.write_bytes(b"\xff" * 8 + b[8:]),
            "a pipe": lambda p, b: os.mkfifo(p),
            "a folder": lambda p, b: p.mkdir(),
            "a link to itself": lambda p, b: p.symlink_to(p),
            "a link to nowhere": lambda p, b: p.symlink_to(p.with_name("gone")),
            "a device": lambda p, b: p.symlink_to("/dev/zero"),
        }
        for old, new in REPLACED:
            made[f"{new!r:.30} for {old!r:.30}"] = lambda p, b, old=old, new=new: p.write_bytes(
                b.replace(old, new.ljust(len(old)) if len(new) < len(old) else new)
            )
        for seed in range(12):
            made[f"bytes changed, {seed}"] = lambda p, b, seed=seed: p.write_bytes(_spoilt(b, seed))
        return made


REPLACED = (
    (b'"6": "', b'"0": "'),
    (b'"sigmas": [', b'"sigmas": [9, '),
    (b'"sigmas": [1.0', b'"sigmas": [NaN'),
    (b'"drift": [', b'"drift": [1, '),
    (b'"runs": 1', b'"runs": []'),
    (b'"runs": 1', b'"runs": 1, "further": 2'),
    (b'\\"depth\\": 1', b'\\"depth\\": 9'),
    (b'\\"num_heads\\": 2', b'\\"num_heads\\": 0'),
    (b'\\"patch_size\\": 4', b'\\"patch_size\\": 0'),
    (b'\\"scale\\": 1.0', b'\\"scale\\": "a'),
    (b"Wan2.2", b"Wan9.9"),
    (b"F32", b"I32"),
)


def _spoilt(whole: bytes, seed: int) -> bytes:
    draw, made = random.Random(seed), bytearray(whole)
    for _ in range(draw.randint(1, 8)):
        made[draw.randrange(min(len(made), 2000))] = draw.randrange(256)
    return bytes(made)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _call_with_its_own(method: Any, given: dict[str, Any]) -> None:
    """A check of the host's, with those inputs that it names, or all where it takes any."""
    parameters = inspect.signature(method).parameters
    any_ = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    method(**{k: v for k, v in given.items() if any_ or k in parameters})
