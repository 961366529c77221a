"""Try to break everything for a while: python -m tests.campaign [PART ...] [--seconds N] [--seed N]

Every module of this folder with ``run(seconds: float, seed: int) -> Counts`` is a part, and gets an
equal share of the time. The table is printed and written into out/campaign/table.md, the findings
beside it. The exit code is 1 when there are any.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

from .counts import Counts, table

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "out" / "campaign"


def parts() -> dict[str, ModuleType]:
    """The parts by name: every module here that has a ``run``."""
    names = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def main() -> int:
    known = parts()
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*known, []], help="all, when none is named")
    parser.add_argument("--seconds", type=float, default=1200, help="for all together (1200)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = options.part or list(known)
    counts = Counts()
    for name in chosen:
        began = time.monotonic()
        found = known[name].run(options.seconds / len(chosen), options.seed)
        print(f"{name}: {found.tried.total():,} cases, {len(found.findings)} findings, "
              f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        counts.join(found)
    OUT.mkdir(parents=True, exist_ok=True)
    lines = [f"{f.kind}: {f.outcome}: {f.detail}" for f in counts.findings]
    (OUT / "table.md").write_text(table(counts) + "\n", "utf-8")
    (OUT / "findings.txt").write_text("".join(line + "\n" for line in lines), "utf-8")
    print("", table(counts), *lines, sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
