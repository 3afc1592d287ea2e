"""``python -m schemas.released <version>``: keep the current forms as those of a release."""

from __future__ import annotations

import sys

from schemas.errors import UsageError
from schemas.released import freeze


def main(arguments: list[str]) -> int:
    """The exit code: 2 when it cannot be done, with the reason on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m schemas.released X.Y.Z\n")
        return 2
    try:
        changed = freeze(arguments[0])
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{arguments[0]}: {', '.join(changed) or 'no record has changed'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
