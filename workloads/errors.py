"""The error that bad input raises in the workloads room and the rooms above it."""


class InputError(ValueError):
    """Input that the user can mend: one line saying what was given, what is allowed and what to do.

    The command prints it as it stands and ends with `exit_code`; any error class with that attribute is treated so.
    """

    exit_code = 2
