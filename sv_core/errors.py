"""What a person can mend is told apart from a defect here: by the class of the exception.

sv_core is loaded under two names in one process (the pack's, and its own for the trainer), each
with classes of its own: whoever catches these does it on the side that raises them.
"""


class InvalidInput(ValueError):
    """What a person asked for or gave cannot be used: one sentence, with what to do about it.

    Any other exception is a defect of ours, a plain ValueError of a library included.
    """


class Unavailable(InvalidInput, OSError):
    """A disk, a file or another process failed, also in one sentence.

    One process of several may see it alone, so each of them reports it.
    """
