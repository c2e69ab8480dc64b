"""The errors that a user can fix.

Each is one sentence with the rule, what was received and what to do; the command line prints it without a traceback and
exits with 1, or with 2 where the command itself is incomplete. Mistakes of the programmer are assertions.
"""


class UnsquareError(Exception):
    """The base class of all errors that a user can fix.

    Example:
        >>> try:
        ...     unsquare.train("no_such_folder", "runs/new")
        ... except unsquare.UnsquareError as error:
        ...     print(error)
        The source '...' does not exist...
    """


class SourceError(UnsquareError):
    """The images, labels or manifest cannot be used as they are.

    Example:
        >>> unsquare.scan_source("no_such_folder")
        Traceback (most recent call last):
            ...
        unsquare.errors.SourceError: The source '...' does not exist...
    """


class ImageError(UnsquareError):
    """One image file cannot be read; the message is the reason alone, without the file's name.

    Example:
        >>> [prediction] = unsquare.predict("runs/photos", "no_such_picture.jpg", on_error="keep")
        >>> str(unsquare.ImageError(prediction.problem))
        'does not exist'
    """


class StaleImageError(ImageError):
    """An image file is missing, or no longer the one that was indexed.

    Example:
        >>> issubclass(unsquare.StaleImageError, unsquare.ImageError)
        True
    """


class ConfigError(UnsquareError):
    """A setting has a value that it may not have.

    Example:
        >>> unsquare.PlanConfig(steps="all")
        Traceback (most recent call last):
            ...
        unsquare.errors.ConfigError: steps must be one of mixed, b2b...
    """


class UsageError(ConfigError):
    """A command lacks a word that it needs, or has two that exclude each other.

    Example:
        >>> issubclass(unsquare.UsageError, unsquare.ConfigError)
        True
    """


class PlanError(UnsquareError):
    """No plan can meet the settings.

    Example:
        >>> unsquare.plan_epoch([], unsquare.PlanConfig(), unsquare.Limits(), epoch=0)
        Traceback (most recent call last):
            ...
        unsquare.errors.PlanError: A plan needs at least one image...
    """


class BudgetError(UnsquareError):
    """The memory budget cannot hold what was asked for.

    Example:
        >>> predictor = unsquare.Predictor("runs/photos", budget_pixels=100, quiet=True)
        >>> predictor.evaluate("photos")
        Traceback (most recent call last):
            ...
        unsquare.errors.BudgetError: Each image must fit the memory budget alone...
    """


class ExactError(UnsquareError):
    """A module cannot be made padding-exact.

    Example:
        >>> from torch import nn
        >>> unsquare.make_exact(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
        Traceback (most recent call last):
            ...
        unsquare.errors.ExactError: 0 (Flatten) of Sequential cannot be made padding-exact...
    """


class RunError(UnsquareError):
    """A run folder or a checkpoint cannot be used.

    Example:
        >>> unsquare.Predictor("photos")
        Traceback (most recent call last):
            ...
        unsquare.errors.RunError: photos is not a run folder...
    """
