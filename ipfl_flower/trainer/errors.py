"""What can go wrong at an institution; each message is one line with the thing and the fix."""


class InstitutionError(ValueError):
    """The institution.toml is missing, isn't TOML, or holds a wrong setting."""


class ArraysError(ValueError):
    """A model has other names, shapes or dtypes than expected, or a value that isn't finite."""


class ArraysFileError(ArraysError):
    """A file of a model is missing or damaged."""


class RequestError(ValueError):
    """A request can't be served: a wrong model came with it, or its round is over."""


class LimitError(RuntimeError):
    """A request goes beyond what the institution lets its trainer do."""


class TrainingError(RuntimeError):
    """Local training gave no usable model; what is on disk is as before."""


class StoreError(RuntimeError):
    """The state on the institution's disk is damaged, or belongs to somebody else."""
