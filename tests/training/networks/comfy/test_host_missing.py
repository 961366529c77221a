"""Opening ComfyUI in a Python that lacks its packages."""

import subprocess
import sys

from tests.host.server import PACK


def test_a_python_without_comfyui_s_packages_is_told_which_to_use(tmp_path):
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text('__version__ = "0.29.0"\n')
    (folder / "comfy/__init__.py").touch()
    (folder / "comfy/cli_args.py").write_text("import a_package_that_nobody_has\n")
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from training.networks.comfy.host import open_host\n"
        "try: open_host(Path(sys.argv[1]), torch.device('cpu'))\n"
        "except ValueError as e: print(e)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=PACK, capture_output=True, text=True, timeout=60
    )
    assert "lacks a_package_that_nobody_has" in said.stdout, said.stderr
    assert "run the training with ComfyUI's own Python" in said.stdout
