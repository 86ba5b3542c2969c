"""``python -m infra.pacs up|down``: an archive to try things with."""

import argparse
import sys
from pathlib import Path

from infra.pacs import orthanc
from vilam3.errors import VilaM3Error

FOLDER = Path("runs/pacs")
PORT = 8042


def main(words: list[str]) -> int:
    """Do it; exit codes as of every program here."""
    parser = argparse.ArgumentParser(prog="python -m infra.pacs", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="everything of it (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="on the loopback (default: %(default)s)")
    given = parser.parse_args(words)
    folder = given.folder.absolute()
    try:
        if given.action == "down":
            print("removed" if orthanc.stop(folder) else "there was none")  # noqa: T201 - what a program does
            return 0
        running = orthanc.start(folder, port=given.port)
    except VilaM3Error as error:
        print(f"pacs: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return error.exit_code
    for name, value in running.environment().items():
        print(f"export {name}={value}")  # noqa: T201 - likewise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
