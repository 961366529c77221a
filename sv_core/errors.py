"""The exceptions for mistakes that the user can correct; all others are defects of this project.

In one process sv_core may be loaded twice (as a part of the pack, and for the trainer), with
different classes: catch these exceptions in the package that raises them.
"""


class InvalidInput(ValueError):
    """A setting or an input that cannot be used: one sentence with what is wrong and what to do.

    Any other exception is a defect of ours, including a plain ValueError from a library.
    """


class Unavailable(InvalidInput, OSError):
    """A disk, a file or another process has failed; also one sentence.

    Of several processes only some may be affected, so each of them reports it.
    """
