"""The one exception that means "the user's input is wrong".

Every message is one line that says what is wrong, where, and what would be right. The
command-line wrapper (`experiments/app.py`) prints it and exits with status 2.
"""


class InputError(ValueError):
    """Bad input from outside: a file, a flag, a config field, a row of data."""
