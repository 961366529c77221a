"""Whether two commits give the same results to the bit: ``python -m benchmarks.same_results``.

    python dev.py bench same_results OLD NEW
    python dev.py bench same_results --against FILE.json NEW

Checks out each commit into a temporary folder and runs the same public commands there: short
trainings (losses), pictures (samples), the demonstration (demo), public functions and the tests
against the official numbers (golden), and the workflows in every ComfyUI that is found (workflows).
Prints a row for each thing; the exit status is 1 when one is not the same or has failed.

What is compared is told in ``fingerprints.py``, with what is left out on purpose: times, paths, git
hashes and the wording of texts. Bits depend on the processor and on torch, so a file of results
serves only where they are the ones that it was made with. One thread; five minutes of an
idle core for each commit.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import same_results_runs as runs
from .fingerprints import Found, differences
from .same_results_hosts import workflows

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("losses", "samples", "demo", "golden", "workflows")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python dev.py bench same_results",
        description="Compare the results of two commits to the bit.",
    )
    parser.add_argument("commits", metavar="COMMIT", nargs="+", help="OLD NEW, or NEW --against")
    parser.add_argument("--against", type=Path, help="results that --keep left, in place of OLD")
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of %(default)s")
    parser.add_argument(
        "--keep", type=Path, help="a new folder for the checkouts, what they wrote and the results"
    )
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    if len(options.commits) != (1 if options.against else 2):
        parser.error("name two commits, OLD and NEW, or one with --against FILE.json")
    return options


def git(*arguments: str) -> str:
    """What git prints. Raises ValueError, in its own words."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def commit_hash(name: str) -> str:
    """The full hash of a branch, tag or commit. Raises ValueError, in one sentence."""
    try:
        return git("rev-parse", "--verify", f"{name}^{{commit}}")
    except ValueError:
        raise ValueError(
            f"{name} is no commit of this repository: fetch it, or name another"
        ) from None


def check_out(commit: str, folder: Path) -> Path:
    """The commit's files in a new folder, as a clone, of which this repository learns nothing."""
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    git("-C", str(folder), "checkout", "--quiet", "--detach", commit)
    return folder


def surroundings() -> dict[str, str]:
    """What else the bits depend on."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def collect(commit: str, folder: Path, given: Path, only: list[str]) -> dict[str, Any]:
    """The commit's results by section and row."""
    print(f"{commit[:10]} in {folder}", file=sys.stderr)
    checkout = runs.Checkout(check_out(commit, folder))
    results = {}
    for section in only:
        print(f" {section}", file=sys.stderr)
        if section == "workflows":
            results[section] = workflows(checkout, given)
        else:
            results[section] = getattr(runs, section)(checkout)
    return {"commit": commit, "surroundings": surroundings(), "results": results}


def read_results(path: Path, only: list[str]) -> dict[str, Any]:
    """Results of another run. Raises ValueError, in one sentence, when they cannot be used here."""
    try:
        before = json.loads(path.read_text("utf-8"))
        made_with = before["surroundings"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} holds no results: name a before.json that --keep left") from None
    for name, value in surroundings().items():
        if made_with[name] != value:
            raise ValueError(
                f"{path} was made with {name} {made_with[name]} and here it is "
                f"{value}, which alone changes bits: name OLD in place of --against"
            )
    if missing := set(only) - set(before["results"]):
        raise ValueError(f"{path} holds no {', '.join(sorted(missing))}: leave them out by --only")
    return before


def table(before: dict[str, Any], after: dict[str, Any], only: list[str]) -> tuple[str, int]:
    """A row for each thing, and how many are not the same."""
    lines = ["| | values | same | first difference |", "|---|---|---|---|"]
    wrong = 0
    for section in only:
        old, new = before["results"][section], after["results"][section]
        for row in dict.fromkeys([*old, *new]):
            found: Found = old.get(row, {})
            unlike = differences(found, new.get(row, {}))
            wrong += bool(unlike)
            says = f"**no: {len(unlike)} differ**" if unlike else "yes"
            first = unlike[0].replace("|", "\\|").replace("\n", " ") if unlike else ""
            lines.append(f"| {section}: {row} | {len(found)} | {says} | {first} |")
    return "\n".join(lines), wrong


def compare(options: argparse.Namespace, folder: Path) -> int:
    """Run what is asked for below ``folder`` and print the table; how many rows differ."""
    only = [section for section in SECTIONS if section in options.only]
    *old, new = map(commit_hash, options.commits)
    before = read_results(options.against, only) if options.against else None
    given = folder / "given"
    if "workflows" in only:
        # The older commit once more, where no command writes.
        check_out(commit_hash(before["commit"] if before else old[0]), given)
    if before is None:
        before = collect(old[0], folder / "before", given, only)
        write(folder / "before.json", before)
    after = collect(new, folder / "after", given, only)
    write(folder / "after.json", after)
    text, wrong = table(before, after, only)
    print(f"{before['commit'][:10]} and {new[:10]}\n\n{text}\n")
    print(f"not the same: {wrong} of these" if wrong else "all the same to the bit")
    return wrong


def write(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=0), encoding="utf-8")


def main() -> int:
    options = parse()
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ValueError(f"{folder} is not empty: name a new folder")
            return 1 if compare(options, folder.resolve()) else 0
        except (ValueError, OSError, runs.CommandError) as e:
            print(f"error: {e}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
