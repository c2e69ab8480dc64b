"""The errors that a user can fix.

Each is one sentence with the rule, what was received and what to do; the command line prints it without a traceback and
exits with 1, or with 2 where the command itself is incomplete. Mistakes of the programmer are assertions.
"""


class UnsquareError(Exception):
    """The base class of all errors that a user can fix."""


class SourceError(UnsquareError):
    """The images, labels or manifest cannot be used as they are."""


class ImageError(UnsquareError):
    """One image file cannot be read; the message is the reason, without the file's name."""


class StaleImageError(ImageError):
    """An image file is missing, or no longer the one that was indexed."""


class ConfigError(UnsquareError):
    """A setting has a value that is not allowed."""


class UsageError(ConfigError):
    """A command lacks a required argument, or has two that exclude each other."""


class PlanError(UnsquareError):
    """No plan can meet the settings."""


class BudgetError(UnsquareError):
    """The memory budget cannot hold what was asked for."""


class ExactError(UnsquareError):
    """A module cannot be made padding-exact."""


class RunError(UnsquareError):
    """A run folder or a checkpoint cannot be used."""
