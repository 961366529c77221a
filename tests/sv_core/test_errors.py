"""sv_core.errors: what a user can correct is told from a defect, and a disk from a setting."""

import errno

import pytest

from sv_core.errors import InvalidInput, Unavailable


def kind_of(action) -> str:
    """As the commands tell them apart."""
    try:
        action()
    except Unavailable:
        return "unavailable"
    except InvalidInput:
        return "mistake"
    except Exception:
        return "defect"
    return "nothing"


def raising(error: Exception):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (raising(InvalidInput("set size to 8")), "mistake"),
        (raising(Unavailable("the disk is full")), "unavailable"),
        (lambda: list(zip([1], [1, 2], strict=True)), "defect"),  # a library's ValueError
        (raising(OSError(errno.ENOSPC, "No space left")), "defect"),  # not put into words
    ],
)
def test_only_what_was_put_into_words_is_the_user_s_affair(action, kind):
    assert kind_of(action) == kind


def test_one_sentence_is_all_that_is_said():
    # OSError with two arguments would print "[Errno ...]" before it.
    assert str(Unavailable("cannot write: disk full")) == "cannot write: disk full"
    with pytest.raises(OSError, match="disk full"):
        raising(Unavailable("cannot write: disk full"))()
