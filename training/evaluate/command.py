"""The commands of ``python -m training.evaluate``; ``graph`` measures a workflow of ComfyUI."""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sv_core.errors import InvalidInput

from ..cli import add_debug, guard
from .bed import describe, make_bed, read_file
from .client import Comfy
from .folder import PAGE, ReportFolder
from .layouts import COMPBENCH, GENEVAL, require_layout, write_layout
from .lpips import load_lpips
from .measure import Work, run_all, settle
from .methods import Method, installed_rivals, list_methods, parse_rival, parse_share
from .page import make_page
from .prompts import OWN, Prompt, read_prompts
from .report import collect

ADDRESS = "localhost:8188"
SHARES = [1 / 2, 1 / 3, 1 / 4]


def say(text: str) -> None:
    """A line above the bar."""
    tqdm.write(text)


def as_argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A function that raises InvalidInput as a type of argparse's."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except InvalidInput as e:
            raise argparse.ArgumentTypeError(str(e)) from e

    return read


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    graph = commands.add_parser(
        "graph",
        help="measure a workflow in your running ComfyUI",
        description="Runs a workflow with its own setting, converged, with Fewer Calls, with "
        "fewer steps and with other nodes that leave out calls, and reports how near each is. "
        "Started again with the same words it goes on where it was.",
    )
    graph.add_argument("workflow", type=Path, help="a saved workflow, or one exported for the API")
    graph.add_argument(
        "prompts", type=Path, nargs="*", default=[OWN],
        help="files with a prompt on each line, or GenEval's .jsonl; default: fifty of our own",
    )  # fmt: skip
    graph.add_argument("--out", type=Path, default=Path("report"), help="folder of the report")
    graph.add_argument("--comfy", default=ADDRESS, metavar="ADDRESS", help=f"default {ADDRESS}")
    graph.add_argument("--seeds", type=int, nargs="+", default=[1], help="default: 1")
    graph.add_argument("--limit", type=int, help="only so many of the prompts")
    graph.add_argument("--shares", type=as_argument(parse_share), nargs="+", default=SHARES,
                       help="of the calls; default: 1/2 1/3 1/4")  # fmt: skip
    graph.add_argument("--converged", type=int, default=100, metavar="STEPS",
                       help="steps of the converged reference; default: 100")  # fmt: skip
    graph.add_argument("--rival", type=as_argument(parse_rival), action="append", default=[],
                       metavar="CLASS:INPUT[,INPUT=VALUE]", help="another node from MODEL to MODEL "
                       "and the input that decides its calls")  # fmt: skip
    graph.add_argument("--no-rivals", action="store_true", help="only those named by --rival")
    graph.add_argument("--tries", type=int, default=8, help="runs to tune a rival to a number of "
                       "calls; default: 8")  # fmt: skip
    graph.add_argument("--text", action="append", default=[], metavar="NODE.INPUT",
                       help="where the prompt goes, if it is not found")  # fmt: skip
    graph.add_argument("--picture", metavar="NODE", help="the node that saves what is judged")
    graph.add_argument("--lpips", type=Path, metavar="FOLDER", help="with alex.pth and "
                       "alexnet-owt-7be5be79.pth")  # fmt: skip
    graph.add_argument("--layout", choices=(GENEVAL, COMPBENCH),
                       help="also write the folders that its scripts read")  # fmt: skip
    add_debug(graph)
    return parser


def asked_for(options: argparse.Namespace, data: Any, prompts: Sequence[Prompt]) -> dict:
    """What a report's folder belongs to."""
    digest = hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8)
    return {
        "workflow": options.workflow.name,
        "workflow_digest": digest.hexdigest(),
        "prompts": [prompt.text for prompt in prompts],
        "seeds": options.seeds,
        "shares": [round(value, 6) for value in options.shares],
        "converged": options.converged,
        "rivals": [[r.kind, r.knob, sorted(r.settings.items())] for r in options.rival],
        "no_rivals": options.no_rivals,
        "texts": options.text,
        "picture": options.picture,
    }


def require_sensible(options: argparse.Namespace) -> None:
    """Raises InvalidInput for numbers that cannot be."""
    for name in ("limit", "converged", "tries"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InvalidInput(f"--{name} must be at least 1, not {value}")
    if len(set(options.seeds)) < len(options.seeds) or min(options.seeds) < 0:
        raise InvalidInput("--seeds must be different numbers from 0 upwards")


def run_graph(options: argparse.Namespace) -> int:
    """Measure, then report; stopped by Ctrl-C, report what is finished."""
    require_sensible(options)
    data, prompts = read_file(options.workflow), read_prompts(options.prompts, options.limit)
    lpips = load_lpips(options.lpips) if options.lpips else None
    comfy = Comfy(options.comfy)
    info = comfy.nodes()
    bed = make_bed(data, info, texts=options.text, picture=options.picture, rivals=options.rival)
    require_layout(options.layout, prompts, bed.picture.is_video)
    rivals = (
        list(options.rival) if options.no_rivals else installed_rivals(info, options.rival, say)
    )
    folder, asked = ReportFolder(options.out), asked_for(options, data, prompts)
    resumed = folder.begin(asked)
    for line in (*describe(bed), "goes on where it was" if resumed else ""):
        if line:
            say(line)
    work = Work(comfy, bed, folder, prompts, options.seeds, lpips, say, comfy.system())
    methods = list_methods(bed, options.shares, rivals, options.converged)
    return _measure(work, methods, asked, options)


def _measure(work: Work, methods: list[Method], asked: dict, options: argparse.Namespace) -> int:
    methods, left_out, own = settle(work, methods, options.tries)
    for note in left_out:
        say(note)
    try:
        failed = run_all(work, methods, own)
        left_out += [f"{key} failed: {why}" for key, why in failed.items()]
    finally:
        _report(work, methods, asked, left_out, options.layout)
    return 0


def _report(
    work: Work, methods: list[Method], asked: dict, left_out: list[str], layout: str | None
) -> None:
    report = collect(work, methods, asked, left_out)
    work.folder.keep_report(report)
    work.folder.keep_page(make_page(report, work.folder))
    if layout:
        keys = [method.key for method in methods]
        rate = work.bed.picture.frames_per_second
        say(f"{write_layout(layout, work.folder, work.prompts, work.seeds, keys, rate)}")
    say(table(report))
    say(f"{work.folder.path / PAGE}")


def table(report: dict) -> str:
    """The means as a table for the terminal and for Markdown."""
    lines = [
        "| method | calls | evaluations | s in the model | dB to the original | worst | SSIM "
        "| dB to converged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in report["summary"]:
        to, far = s.get("to_original", {}), s.get("to_converged", {})
        cells = [to.get("psnr"), to.get("psnr_worst"), to.get("ssim"), far.get("psnr")]
        shown = [_shown(c, 3 if i == 2 else 1) for i, c in enumerate(cells)]
        numbers = f"{s['calls']:.1f} | {s['evaluations']:.1f} | {s['seconds']:.2f}"
        lines.append(f"| {s['name']} | {numbers} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = make_parser().parse_args(arguments)
    return guard(
        partial(run_graph, options),
        options,
        stopped="stopped; the same command goes on from here",
        folder=lambda: options.out,
    )
