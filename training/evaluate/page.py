"""A report as one HTML file: tables that can be sorted, a chart, the pictures side by side.

It holds everything that it shows, asks nothing of a network, and opens from a disk.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from .chart import draw
from .folder import ReportFolder, run_name

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 100
"""Groups of pictures on the page; the others lie in the folder."""
LARGEST, SMALL = 384, 160
"""Pixels: of a picture on the page, and below which its pixels are kept."""

Column = tuple[str, str, int]
"""Heading, path of the number in a summary or a row, digits."""
COUNTS: list[Column] = [
    ("calls", "calls", 1),
    ("evaluations", "evaluations", 1),
    ("prompt", "cond", 1),
    ("without", "uncond", 1),
    ("model s", "seconds", 2),
    ("sampling s", "sampling_seconds", 2),
]
NEARNESS: list[Column] = [
    ("dB", "to_original.psnr", 1),
    ("worst", "to_original.psnr_worst", 1),
    ("SSIM", "to_original.ssim", 3),
    ("LPIPS", "to_original.lpips", 3),
    ("to converged", "to_converged.psnr", 1),
]
VIDEO: list[Column] = [
    ("first frame", "to_original.psnr_first", 1),
    ("last frame", "to_original.psnr_last", 1),
    ("flicker", "to_original.flicker", 2),
]
LEGEND = (
    "Calls: noise levels at which the network was evaluated. Evaluations: how often, with the "
    "prompt and, for guidance, without it. Seconds: in the model, and of the whole sampling. dB: "
    "PSNR to the original, as a mean and in the worst run; 20 resembles, 30 is close, above 40 the "
    "eye hardly finds a difference; equal pictures count as 100. Converged: the same sampler in "
    "many more steps, nearer to what the model means than the original is: compare each method's "
    "dB to it with the original's own. "
)
LEGEND_VIDEO = "Flicker: how much the error changes from frame to frame, in grey levels of 255."


def _value(record: dict, path: str) -> Any:
    for part in path.split("."):
        record = record.get(part) if isinstance(record, dict) else None  # type: ignore
    return record


def _columns(report: dict) -> list[Column]:
    """Those of which there is a number."""
    rows = report["summary"]
    every = COUNTS + NEARNESS + (VIDEO if report["video"] else [])
    return [c for c in every if any(_value(row, c[1]) is not None for row in rows)]


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return '<td data-value="nan">-</td>'
    return f'<td data-value="{value}">{value:.{digits}f}</td>'


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th><button>{escape(name)}</button></th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _summary(report: dict) -> str:
    columns = _columns(report)
    kinds = {m["key"]: m["kind"] for m in report["methods"]}
    original = next((s for s in report["summary"] if kinds[s["method"]] == "original"), None)
    rows = []
    for s in report["summary"]:
        cells = "".join(_cell(_value(s, path), digits) for _, path, digits in columns)
        faster = original and original["sampling_seconds"] / (s["sampling_seconds"] or 1)
        cells += _cell(faster, 2)
        mark = ' class="ours"' if kinds[s["method"]] == "ours" else ""
        rows.append(f"<tr{mark}><td>{escape(s['name'])}</td>{cells}</tr>")
    return _table(["method", *(c[0] for c in columns), "speed-up"], rows)


def _rows(report: dict) -> str:
    columns = _columns(report)
    names = {m["key"]: m["name"] for m in report["methods"]}
    rows = []
    for row in report["rows"]:
        cells = "".join(_cell(_value(row, path), digits) for _, path, digits in columns)
        text = escape(report["prompts"][row["prompt"]]["text"][:60])
        place = f"g{row['prompt']}_{row['seed']}"
        rows.append(
            f'<tr><td>{escape(names[row["method"]])}</td><td class="left"><a href="#{place}">{text}'
            f"</a></td><td>{row['seed']}</td>{cells}</tr>"
        )
    return _table(["method", "prompt", "seed", *(c[0] for c in columns)], rows)


def embed(path: Path) -> str:
    """A picture as an <img> that holds its own data."""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        small = max(picture.size) <= SMALL
        data = io.BytesIO()
        if small:
            picture.save(data, "PNG")
        else:
            picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            picture.save(data, "JPEG", quality=88)
    text = base64.b64encode(data.getvalue()).decode()
    mark, kind = (' class="small"', "png") if small else ("", "jpeg")
    return f'<img{mark} loading="lazy" alt="" src="data:image/{kind};base64,{text}">'


def _spark(frames: Sequence[float | None]) -> str:
    """dB of each frame as a line."""
    values = [100.0 if v is None else v for v in frames]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    places = [
        f"{100 * i / (len(values) - 1):.1f} {22 - 20 * (v - low) / (high - low or 1):.1f}"
        for i, v in enumerate(values)
    ]
    title = f"dB of each frame, {low:.1f} to {high:.1f}"
    return (
        f'<svg viewBox="0 0 100 24" height="24" role="img" aria-label="{title}"><title>{title}'
        f'</title><path class="spark" d="M{"L".join(places)}"/></svg>'
    )


def _figure(row: dict, method: dict, pictures: Sequence[Path], is_video: bool) -> str:
    shown = [pictures[0], pictures[-1]] if is_video else pictures[:1]
    images = "".join(embed(path) for path in shown)
    if is_video:
        images = f'<div class="frames">{images}</div>'
    near = row.get("to_original", {})
    words = f"{row['calls']:.0f} calls"
    if near:
        words += ", equal" if near["equal"] else f", {near['psnr']:.1f} dB"
    if "lpips" in near:
        words += f", LPIPS {near['lpips']:.3f}"
    spark = _spark(near["psnr_frames"]) if "psnr_frames" in near else ""
    mark = ' class="ours"' if method["kind"] == "ours" else ""
    return (
        f"<figure{mark}>{images}<figcaption><b>{escape(method['name'])}</b><br>{words}{spark}"
        f"</figcaption></figure>"
    )


def _groups(report: dict, folder: ReportFolder) -> list[str]:
    by_key: dict[tuple[int, int], dict[str, dict]] = {}
    for row in report["rows"]:
        by_key.setdefault((row["prompt"], row["seed"]), {})[row["method"]] = row
    groups = []
    for (prompt, seed), rows in list(by_key.items())[:SHOWN]:
        figures = [
            _figure(rows[m["key"]], m, pictures, report["video"])
            for m in report["methods"]
            if m["key"] in rows and (pictures := folder.pictures(run_name(prompt, seed, m["key"])))
        ]
        text = escape(report["prompts"][prompt]["text"])
        groups.append(
            f'<div class="card group" id="g{prompt}_{seed}"><h3>{text} <span class="soft">seed '
            f'{seed}</span></h3><div class="row">{"".join(figures)}</div></div>'
        )
    return groups


def make_page(report: dict, folder: ReportFolder) -> str:
    """The page of a report whose pictures lie in ``folder``."""
    groups, system = _groups(report, folder), report["system"]
    done, planned = len(report["rows"]), report["planned_runs"]
    every = len({(r["prompt"], r["seed"]) for r in report["rows"]})
    shown = "" if every <= SHOWN else f"The first {SHOWN} of {every}; all are in pictures/."
    facts = [*report["workflow"]["says"], *report["left_out"]]
    facts.append(f"ComfyUI {system['comfyui_version']}, torch {system['pytorch_version']}, "
                 f"{', '.join(system['devices'])}")  # fmt: skip
    values = {
        "title": escape(f"{report['workflow']['name']} with fewer calls"),
        "subtitle": escape(f"{done} of {planned} runs, {report['when']}. The numbers for others "
                           f"are in report.json."),
        "counted": f"{len(report['prompts'])} prompts, {len(report['seeds'])} seeds each",
        "summary": _summary(report),
        "legend": LEGEND + (LEGEND_VIDEO if report["video"] else ""),
        "chart": draw(report),
        "shown": shown or "In the order of the methods; ours is framed.",
        "cell": "260" if report["video"] else "150",
        "groups": "".join(groups),
        "rows": _rows(report),
        "rows_count": str(done),
        "facts": "".join(f"<li>{escape(fact)}</li>" for fact in facts),
    }  # fmt: skip
    page = TEMPLATE.read_text("utf-8")
    for name, value in values.items():
        page = page.replace(f"{{{name}}}", value)
    return page
