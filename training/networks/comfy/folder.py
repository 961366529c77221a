"""Where a person's ComfyUI is, whether it is new enough, and which Python runs it.

Standard library only, so that a script which runs before anything is installed can use it.
"""

import os
import re
import sys
from pathlib import Path

from sv_core.errors import InvalidInput

PACK = Path(__file__).resolve().parents[3]
LEAST = (0, 3, 64)
VARIABLE = "COMFYUI_PATH"


def places() -> list[Path]:
    """Where one may be: COMFYUI_PATH, around this folder, comfy-cli's default places."""
    found = _named_by_variable()
    if PACK.parent.name == "custom_nodes":
        found.append(PACK.parent.parent)
    for folder in (Path.home() / "comfy", Path.home() / "Documents" / "comfy"):
        found += [folder / "ComfyUI", *sorted(folder.glob("ComfyUI-*"))]
    return found


def find_all() -> list[Path]:
    """Those of the places that hold a ComfyUI; with COMFYUI_PATH only the ones that it names."""
    found = [p for p in dict.fromkeys(places()) if (p / "main.py").is_file()]
    named = _named_by_variable()
    return [p for p in found if p in named] or found


def find(named: str | None = None) -> Path:
    """The folder that is named, else the first of the places that holds a new enough ComfyUI.

    Raises InvalidInput, in one sentence, when there is none or it is too old.
    """
    if named is not None:
        folder = Path(named).expanduser()
        if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
            raise InvalidInput(
                f"{named} is not a ComfyUI folder: name the one that holds its main.py"
            )
        return _new_enough(folder)
    found = find_all()
    if not found:
        raise InvalidInput(
            f"no ComfyUI found: name its folder, the one that holds main.py, in comfy.folder or in "
            f"the environment variable {VARIABLE}"
        )
    return _new_enough(next((p for p in found if version(p) >= LEAST), found[0]))


def version(folder: Path) -> tuple[int, ...]:
    """Its version, read and not run; () where it says none, as very old ones do."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return ()
    says = re.search(r"""__version__\s*=\s*["'](\d+(?:\.\d+)*)""", text)
    return tuple(map(int, says[1].split("."))) if says else ()


def python_of(folder: Path) -> Path:
    """A ComfyUI's own interpreter: its virtual environment, the portable one, or this one."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    candidates = [folder / name / inside for name in (".venv", "venv")]
    candidates.append(folder.parent / "python_embeded" / "python.exe")
    return next((p for p in candidates if p.exists()), Path(sys.executable))


def _named_by_variable() -> list[Path]:
    return [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]


def _new_enough(folder: Path) -> Path:
    has = version(folder)
    if has < LEAST:
        says = ".".join(map(str, has)) or "of unknown version"
        raise InvalidInput(
            f"the ComfyUI in {folder} is {says}, and training needs {'.'.join(map(str, LEAST))} or "
            f"newer: update it"
        )
    return folder
