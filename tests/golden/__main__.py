"""Write the golden lists anew: `python -m tests.golden`. Commit them only if the selection was meant to change."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.golden.jobs import LISTS, NAMES, list_path, selected_ids


def main() -> None:
    """Rewrite every list, and delete those of jobs that no longer exist."""
    LISTS.mkdir(exist_ok=True)
    for path in set(LISTS.iterdir()) - {list_path(name) for name in NAMES}:
        path.unlink()
    with TemporaryDirectory() as folder:
        for name in NAMES:
            ids = selected_ids(name, Path(folder))
            list_path(name).write_text("".join(f"{one}\n" for one in ids))
            print(f"{name}: {len(ids)} ids")


if __name__ == "__main__":
    main()
