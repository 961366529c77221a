"""A ComfyUI that pretends to sample: flat pictures, off by as much as calls are left out."""

import io

import numpy as np
from PIL import Image

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import info, prompt
from training.evaluate.bed import make_bed
from training.evaluate.client import RunFailed
from training.evaluate.folder import ReportFolder
from training.evaluate.measure import Work
from training.evaluate.prompts import Prompt
from training.evaluate.surgery import PICTURES

SIZE = 32


class Pretended:
    """What the client offers; ``breaks`` stops after so many runs, ``failing`` are classes."""

    name = "pretended"

    def __init__(self, breaks=10**9, failing=(), frames=1):
        self.runs, self.breaks, self.failing, self.frames = [], breaks, failing, frames

    def run(self, queued):
        if len(self.runs) >= self.breaks:
            raise InvalidInput("no ComfyUI answers")
        kinds = {n["class_type"]: n["inputs"] for n in queued.values()}
        if kinds.keys() & set(self.failing):
            raise RunFailed("node 9 failed: out of memory")
        steps = queued["5"]["inputs"]["steps"]
        calls = self.calls_of(kinds, steps)
        self.runs.append((queued["2"]["inputs"]["text"], queued["5"]["inputs"]["seed"], calls))
        self.value = queued["5"]["inputs"]["seed"] + 400 // calls
        counts = {"calls": calls, "evaluations": 2 * calls, "cond": calls, "uncond": calls,
                  "seconds": 0.1 * calls, "sampling_seconds": 0.2 * calls}  # fmt: skip
        pictures = [{"filename": str(i)} for i in range(self.frames)]
        return {PICTURES: {"images": pictures}, "CallReport_5_model": {"counts": [counts]}}

    def calls_of(self, kinds, steps):
        if "FewerCalls" in kinds:
            return round(steps * kinds["FewerCalls"]["calls.share"])
        if "EasyCache" in kinds:
            return max(4, round(steps - 8 * kinds["EasyCache"]["reuse_threshold"]))
        return steps

    def picture(self, where):
        data = io.BytesIO()
        pixels = np.full((SIZE, SIZE, 3), self.value + int(where["filename"]), np.uint8)
        Image.fromarray(pixels).save(data, "PNG")
        return data.getvalue()


def work(tmp_path, comfy=None, **changes):
    settings = {
        "comfy": comfy or Pretended(), "bed": make_bed(prompt(), info()),
        "folder": ReportFolder(tmp_path / "report"),
        "prompts": [Prompt("a dog"), Prompt("a bird")], "seeds": [1, 2], "lpips": None,
        "tell": lambda text: None, "system": {"system": {"comfyui_version": "0"}, "devices": []},
    }  # fmt: skip
    return Work(**(settings | changes))
