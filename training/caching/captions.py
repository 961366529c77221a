"""Captions: reading a picture's .txt, and making several captions of it."""

from pathlib import Path
from random import Random
from typing import NamedTuple


class Variants(NamedTuple):
    """How a text becomes the captions of its picture.

    ``one``: the whole text is one caption. ``lines``: each line is one. ``tags``: the text is a
    list of tags between commas; ``number`` captions, the first in the order of the file, the others
    with all tags but the first ``keep`` shuffled.
    """

    kind: str = "one"
    number: int = 4
    keep: int = 1

    def of(self, text: str, name: str) -> list[str]:
        """The distinct captions, the unshuffled one first. Shuffles depend on ``name`` alone."""
        if self.kind == "lines":
            captions = [line.strip() for line in text.splitlines() if line.strip()]
        elif self.kind == "tags":
            tags = [tag.strip() for tag in text.split(",") if tag.strip()]
            captions = [", ".join(tags)]
            for number in range(1, self.number):
                rest = tags[self.keep :]
                Random(f"{name}/{number}").shuffle(rest)
                captions.append(", ".join(tags[: self.keep] + rest))
        else:
            captions = [text]
        return list(dict.fromkeys(captions))


ONE = Variants()


def read(file: Path | None) -> tuple[str | None, str]:
    """(text, "") or (None, the reason why there is none). A byte order mark is left out."""
    if file is None:
        return None, "it has no .txt caption"
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except OSError as e:
        return None, f"its caption cannot be read ({e.strerror or e})"
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # what UTF-16 without a mark looks like when it is read as UTF-8
        return None, f"its caption {file.name} is not UTF-8 text: save it as UTF-8"
    return (text, "") if text else (None, f"its caption {file.name} is empty")
