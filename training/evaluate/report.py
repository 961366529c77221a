"""What a measurement found, as JSON for others: the layout is in docs/measure_your_model.md."""

import time
from collections.abc import Sequence
from typing import Any

from .bed import describe
from .folder import run_name
from .measure import COUNTED, Work
from .methods import CONVERGED, ORIGINAL, Method

LAYOUT = 1
MEANS = ("psnr", "ssim", "lpips", "flicker", "psnr_first", "psnr_last")


def collect(
    work: Work, methods: Sequence[Method], asked: dict, left_out: Sequence[str]
) -> dict[str, Any]:
    """The report on the runs that are finished."""
    rows = [r for row in work.rows(methods) if (r := work.folder.run(row.name)) is not None]
    _mirror(rows)
    return {
        "layout": LAYOUT,
        "made_by": "python -m training.evaluate graph",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": _system(work.system),
        "workflow": {"name": asked["workflow"], "says": describe(work.bed)},
        "video": work.bed.picture.is_video,
        "prompts": [{"text": p.text, "group": p.group} for p in work.prompts],
        "seeds": list(work.seeds),
        "methods": [_method(m) for m in methods],
        "left_out": list(left_out),
        "planned_runs": len(methods) * len(work.prompts) * len(work.seeds),
        "summary": [s for m in methods if (s := _summary(m, rows)) is not None],
        "rows": rows,
    }


def _mirror(rows: list[dict]) -> None:
    """The original's distance to the converged run is the converged run's to the original."""
    by_name = {run_name(r["prompt"], r["seed"], r["method"]): r for r in rows}
    for row in rows:
        if row["method"] == CONVERGED and f"to_{ORIGINAL}" in row:
            original = by_name.get(run_name(row["prompt"], row["seed"], ORIGINAL))
            if original is not None:
                original[f"to_{CONVERGED}"] = row[f"to_{ORIGINAL}"]


def _system(stats: dict) -> dict:
    system = stats.get("system", {})
    devices = [d.get("name", "?") for d in stats.get("devices", ())]
    kept = {
        k: system.get(k) for k in ("comfyui_version", "python_version", "pytorch_version", "os")
    }
    return kept | {"devices": devices}


def _method(method: Method) -> dict:
    return {
        "key": method.key,
        "name": method.name,
        "kind": method.kind,
        "share": round(method.share, 4),
        "node": method.rival.kind if method.rival else None,
        "settings": {**(method.rival.settings if method.rival else {}), **method.settings},
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _summary(method: Method, rows: list[dict]) -> dict | None:
    """Means over a method's rows; None when none is finished."""
    own = [row for row in rows if row["method"] == method.key]
    if not own:
        return None
    found: dict[str, Any] = {"method": method.key, "name": method.name, "runs": len(own)}
    found |= {name: _mean([row[name] for row in own]) for name in (*COUNTED, "wall_seconds")}
    for to in (f"to_{ORIGINAL}", f"to_{CONVERGED}"):
        measured = [row[to] for row in own if to in row]
        if measured:
            found[to] = {
                name: _mean([m[name] for m in measured if m.get(name) is not None])
                for name in MEANS
                if any(name in m for m in measured)
            }
            found[to]["psnr_worst"] = min(m.get("psnr_worst", m["psnr"]) for m in measured)
    return found
