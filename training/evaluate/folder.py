"""The folder of a report: what was asked, each finished run, and nothing half written.

plan.json            what was asked, and the workflow that is measured
trials.json          the runs in which settings of rivals were found
runs/NAME.json       one finished run: its counts and measures
pictures/NAME/       its pictures, 00000.png and on
report.json          all of it for others to read; index.html for people
"""

import json
from pathlib import Path
from typing import Any

from sv_core.errors import InvalidInput

from ..files import write_atomically

PLAN, TRIALS, REPORT, PAGE = "plan.json", "trials.json", "report.json", "index.html"


def run_name(prompt: int, seed: int, method: str) -> str:
    return f"{prompt:05d}_{seed}_{method}"


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


class ReportFolder:
    """Everything that is written lies in ``path``."""

    def __init__(self, path: Path):
        self.path = path

    def begin(self, asked: dict) -> bool:
        """Note what was asked; whether the folder goes on with it. Raises InvalidInput."""
        old = self._read(PLAN)
        if old is not None and old != json.loads(json.dumps(asked)):
            changed = sorted(k for k in asked.keys() | old.keys() if asked.get(k) != old.get(k))
            raise InvalidInput(
                f"{self.path} holds a report of something else ({', '.join(changed)} differ): "
                f"choose another --out, or delete that folder"
            )
        if old is None:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise InvalidInput(f"{self.path} is not empty and holds no report: choose another")
            _write(self.path / PLAN, asked)
        return old is not None

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise InvalidInput(f"{self.path / name} cannot be read ({e}): delete it") from e

    def trials(self) -> dict[str, dict]:
        """Of each rival the calls by a setting's text; under ``settled``, settings by method."""
        return self._read(TRIALS) or {}

    def keep_trials(self, trials: dict[str, dict]) -> None:
        _write(self.path / TRIALS, trials)

    def run(self, name: str) -> dict | None:
        """A finished run's record."""
        return self._read(f"runs/{name}.json")

    def keep_run(self, name: str, record: dict) -> None:
        """The last that is written of a run: without it, it counts as not done."""
        _write(self.path / f"runs/{name}.json", record)

    def keep_picture(self, name: str, number: int, data: bytes) -> None:
        place = self.path / "pictures" / name / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, lambda file: file.write(data))

    def pictures(self, name: str) -> list[Path]:
        return sorted((self.path / "pictures" / name).glob("*.png"))

    def drop_pictures(self, name: str) -> None:
        """What a run that was killed has left."""
        for file in self.pictures(name):
            file.unlink()

    def keep_report(self, report: dict) -> None:
        _write(self.path / REPORT, report)

    def keep_page(self, page: str) -> None:
        write_atomically(self.path / PAGE, lambda file: file.write(page.encode("utf-8")))
