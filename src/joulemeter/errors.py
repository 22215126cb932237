"""The exception tree of Joulemeter.

    JoulemeterError              anything foreseen; printed as one line, no traceback
    ├── UsageError               the command or the arguments are off           (exit 2)
    ├── SourceError              a meter cannot be used                         (exit 3)
    │   └── SourceUnavailable    it is not here, or may not be read
    ├── RunFolderError           a run folder is missing, torn, newer, or in the way  (exit 4)
    ├── DatasetError             a data set cannot be read or breaks its schema (exit 5)
    ├── GraphError               a network's file cannot be read into kernels   (exit 6)
    └── PredictorError           a predictor does not fit what it is asked      (exit 7)

Every message has the thing, the fact and the remedy, for none is raised without: ``rapl: /sys/class/powercap
may not be read. Try: sudo chmod a+r …/energy_uj``. Whatever is not foreseen keeps its traceback.
"""


class JoulemeterError(Exception):
    """A foreseen fault: ``fact`` says what is wrong with which thing, ``remedy`` what to type or do then."""

    exit_status = 1

    def __init__(self, fact: str, remedy: str) -> None:
        super().__init__(fact, remedy)
        self.fact = fact
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.fact.rstrip('.')}. Try: {self.remedy}"


class UsageError(JoulemeterError):
    """The command or its arguments are off."""

    exit_status = 2


class SourceError(JoulemeterError):
    """A meter cannot be used."""

    exit_status = 3


class SourceUnavailable(SourceError):
    """A meter that is not here or may not be read; ``remedy`` is the command that mends it, if any."""


class RunFolderError(JoulemeterError):
    """A run folder is missing, truncated, of a newer schema, or in the way."""

    exit_status = 4


class DatasetError(JoulemeterError):
    """A data set cannot be read, or does not follow its schema."""

    exit_status = 5


class GraphError(JoulemeterError):
    """A network's file cannot be read into kernels."""

    exit_status = 6


class PredictorError(JoulemeterError):
    """A predictor does not fit what it is asked to price."""

    exit_status = 7


def nearest(before: str, found: object, attribute: str, *after: str) -> str:
    """What to type for an ``attribute`` that ``found`` lacks: the nearest that it has, between ``before``
    (what led to it, such as ``torch:nn.``) and ``after``; where none is near, the command that lists all.
    """
    import difflib

    near = difflib.get_close_matches(attribute, dir(found), n=1)
    if near:
        return before + ".".join((near[0], *after))
    module, owner = before.partition(":")[0], before.replace(":", ".")[:-1]
    return f'python -c "import {module}; print(dir({owner}))"'
