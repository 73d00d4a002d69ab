"""What can go wrong, as types. Only the command line prints these and turns them to exit codes."""


class D2VError(Exception):
    """The run failed for a reason that the user can act on.

    Args:
        happened: what happened, with the value or the file.
        expected: what was expected instead.
        remedy: what to do now.
    """

    exit_code = 1

    def __init__(self, happened: str, *, expected: str = "", remedy: str = "") -> None:
        self.happened, self.expected, self.remedy = happened, expected, remedy
        parts = (happened, f"Expected: {expected}" if expected else "", remedy)
        super().__init__(" ".join(_sentence(part) for part in parts if part))


class UsageError(D2VError):
    """Wrong recipe, wrong setting, wrong source: nothing was started."""

    exit_code = 2


class GuardError(D2VError):
    """A guard stopped the training: collapse or a non-finite number."""

    exit_code = 3


class StoppedError(D2VError):
    """SIGTERM came; a checkpoint was written and the same command continues."""

    exit_code = 75


class InterruptedRunError(D2VError):
    """Ctrl-C came; a checkpoint was written and the same command continues."""

    exit_code = 130


class PeerLostError(D2VError):
    """Another process of the run ended; its own error says why."""

    exit_code = 70


class BadSampleError(Exception):
    """One sample cannot be used. Counted and reported with its reason, never fatal by itself."""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":", "\n")) else text + "."
