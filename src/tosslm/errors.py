"""The errors a user can meet; each message says what is wrong, where, and how to mend it."""


class TosslmError(Exception):
    """The work failed (exit status 1)."""


class InputError(TosslmError):
    """The input or the config is wrong (exit status 2)."""


class RowError(InputError):
    """One row is wrong.

    Args:
        reason: what is wrong with it.
        remedy: how to mend it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def first_line(error: BaseException) -> str:
    r"""What another's error says first; its kind where it says nothing.

    Examples:
        >>> first_line(OSError("no room\nadvice of many lines")), first_line(OSError())
        ('no room', 'OSError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
