"""The one error that is meant for the person at the keyboard."""


class SetupError(Exception):
    """A user's input or environment is at fault. The text is one line: what, where, and what to do."""
