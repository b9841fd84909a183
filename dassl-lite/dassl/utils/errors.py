"""The error for a wrong setting or input."""


class SettingError(AssertionError, ValueError):
    """A value that cannot be used.

    An ``AssertionError`` as well, because code written for upstream may catch that one.
    """
