"""One entry for people who try or build Stable Velocity: makes .venv, installs, runs one thing.

    python dev.py demo           draw emoji with fewer calls: out/demo/compare.png and a table;
                                 with --train, train on digits first and draw those
    python dev.py test [...]     lint and tests; what follows goes to pytest
    python dev.py test --campaign    try to break everything for 20 minutes, and count
    python dev.py bench NAME     one of benchmarks/*.py
    python dev.py comfy [...]    start your ComfyUI with this pack; what follows goes to ComfyUI
    python dev.py locales        write locales/en from the texts of the nodes; needs a ComfyUI

Standard library only; Linux, macOS, Windows; Python 3.10 or newer.
"""

import filecmp
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import venv
import webbrowser
from pathlib import Path
from typing import NoReturn

from training.networks.comfy.folder import find_all, python_of

ROOT = Path(__file__).resolve().parent
PACK = "stable-velocity"
EMOJI = ROOT / "models/emoji.ckpt"
LOCK = ROOT / "requirements.lock"
TORCH = "torch==2.13.0"  # what the demo's and the tests' figures were measured with


def environment_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python: Path) -> None:
    """torch, then the very files of the lock, then this folder; a message and exit 2 if none is to
    be had.

    torch is not in the lock: each index has other files of it. An index that lacks a file of the
    lock, or has another one under its name, is said; the newest releases are installed then, as
    where there is no lock (an upload to the registry has none).
    """

    def pip(*what: object) -> bool:
        quiet = [] if sys.stdout.isatty() else ["--quiet"]  # a person sees pip's progress bars
        return not subprocess.run([python, "-m", "pip", "install", *quiet, *what]).returncode

    if not pip(TORCH):
        stop(f"pip could not install {TORCH}: its own message is above")
    locked = LOCK.exists() and pip("--no-deps", "--require-hashes", "--requirement", LOCK)
    if LOCK.exists() and not locked:
        say(f"not every file of {LOCK.name} is to be had here: the newest releases instead")
    own = ("--no-deps", "--editable", ROOT) if locked else ("--editable", f"{ROOT}[training,dev]")
    if not pip(*own):
        stop("pip could not install this folder or what it needs: its own message is above")


def own_python() -> Path:
    """.venv's interpreter, installed anew when the lock, pyproject.toml or this file changes."""
    folder = ROOT / ".venv"
    python, stamp = environment_python(folder), folder / "installed"
    recipe = (ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()
    recipe += LOCK.read_bytes() if LOCK.exists() else b""
    wanted = hashlib.sha256(recipe).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    if not python.exists():
        say(f"making {folder.name}")
        try:
            venv.create(folder, with_pip=True, clear=folder.exists())
        except subprocess.CalledProcessError:
            stop(
                "this Python cannot make virtual environments: install its venv module "
                "(Debian and Ubuntu: apt install python3-venv) and run this again"
            )
    say("installing torch and the rest (once; some minutes on a slow line)")
    install(python)
    stamp.write_text(wanted)
    return python


def link_into(custom_nodes: Path) -> Path:
    """Make this folder visible there, by a link (a junction on Windows); returns its place."""
    if ROOT.parent == custom_nodes:
        return ROOT
    place = custom_nodes / PACK
    if place.exists():
        if place.resolve() != ROOT:
            stop(f"{place} holds another copy of this pack: move it away and run this again")
    elif os.name == "nt":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(ROOT)], check=True)
    else:
        place.symlink_to(ROOT, target_is_directory=True)
    return place


def find_comfy() -> Path:
    """The first ComfyUI that is found; without one, a message and exit 2."""
    comfy = next(iter(find_all()), None)
    if comfy is None:
        stop("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
    return comfy


def run_locales(arguments: list[str]) -> int:
    """Write the English translation file from the nodes' schemas."""
    comfy, script = find_comfy(), ROOT / "locales/generate.py"
    return subprocess.run([python_of(comfy), script, *arguments], cwd=comfy).returncode


def link_model(file: Path, folder: Path) -> None:
    """Link a model into a folder of ComfyUI's; what is there by that name stays."""
    place = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.exists():
        if not (place.exists() and filecmp.cmp(place, file, shallow=False)):
            say(f"{place} is another file than {file}, and stays: move it away to use this one")
    elif os.name == "nt":  # links to files need a right that few have there
        shutil.copy2(file, place)
    else:
        place.symlink_to(file)


def run_comfy(arguments: list[str]) -> int:
    """Start the user's ComfyUI with the pack and open its page on the emoji workflow."""
    comfy = find_comfy()
    place = link_into(comfy / "custom_nodes")
    models = {"checkpoints": EMOJI, "diffusion_models": ROOT / "out/demo/digits_sit.safetensors"}
    for folder, file in models.items():
        if file.exists():
            link_model(file, comfy / "models" / folder)
    if not EMOJI.exists():
        say(f"{EMOJI} is not here: a clone of the repository has it, an upload to a registry not")
    port = arguments[arguments.index("--port") + 1] if "--port" in arguments else "8188"
    page, query = f"http://127.0.0.1:{port}/", f"?template=emoji&source={place.name}"
    say(
        f"starting {comfy}; the emoji workflow opens in your browser at\n"
        f"  {page}{query}\n"
        f"  (older ComfyUI: Workflow > Browse Templates > {place.name} > emoji).\n"
        "  Press Run: four red apples, 15 model calls instead of 30. Then type another word."
    )
    threading.Thread(target=open_page, args=(page, query), daemon=True).start()
    return run_to_the_end([python_of(comfy), "main.py", *arguments], comfy)


def run_to_the_end(command: list, folder: Path) -> int:
    """Run a command that ends when this one is ended: it is told by the same signals."""
    running = subprocess.Popen(command, cwd=folder)

    def pass_on(number: int, frame: object) -> None:
        running.send_signal(number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), pass_on)
    try:
        return running.wait()
    except KeyboardInterrupt:  # from the terminal, which has told the other one too
        return running.wait()
    finally:
        if running.poll() is None:
            running.kill()


def open_page(page: str, query: str) -> None:
    """Open the browser once the server answers, within two minutes."""
    for _ in range(120):
        try:
            urllib.request.urlopen(page, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            webbrowser.open(page + query)
            return


def run(*command: str) -> int:
    """Run Python modules of this repository in its own environment, from its root."""
    return subprocess.run([own_python(), *command], cwd=ROOT).returncode


def run_test(arguments: list[str]) -> int:
    """Lint, then pytest; both must pass.

    All tests run in two halves side by side, those that need ComfyUI and the others: half the time.
    With ``--campaign`` first it is the long form of tests/campaign instead, 20 minutes.
    """
    if arguments[:1] == ["--campaign"]:
        return run("-m", "tests.campaign", *arguments[1:])
    lint = run("-m", "ruff", "check", ".") or run("-m", "ruff", "format", "--check", ".")
    if arguments:
        return run("-m", "pytest", *arguments) or lint
    command = [own_python(), "-m", "pytest", "-p", "no:cacheprovider", "-m", "comfy"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as heard:
        comfy = subprocess.Popen(command, cwd=ROOT, stdout=heard, stderr=subprocess.STDOUT)
        try:
            others = run("-m", "pytest", "-m", "not comfy")
            say("the tests that need ComfyUI, which ran beside these")
            comfy.wait()
        finally:
            comfy.terminate()
        heard.seek(0)
        shutil.copyfileobj(heard, sys.stdout)
    return others or comfy.returncode or lint


def run_bench(arguments: list[str]) -> int:
    """One benchmark by name."""
    names = sorted(
        p.stem for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text()
    )
    if not arguments or arguments[0] not in names:
        stop(f"which benchmark? python dev.py bench {{{','.join(names)}}}")
    return run("-m", f"benchmarks.{arguments[0]}", *arguments[1:])


COMMANDS = {
    "demo": lambda arguments: run("-m", "training.demo", *arguments),
    "test": run_test,
    "bench": run_bench,
    "comfy": run_comfy,
    "locales": run_locales,
}


def say(text: str) -> None:
    print(f"[{PACK}] {text}", flush=True)


def stop(text: str) -> NoReturn:
    say(text)
    sys.exit(2)


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036  an older Python should hear why, in words
        stop(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__.strip())
        return 0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2
    try:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
