"""How Quire starts Python processes of its own: the current folder is never a place that they import from."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger("quire")


def python_command(module: str) -> list[str]:
    """The command line that runs a module of Quire. -P: `-m` alone puts the current folder first on the path."""
    return [sys.executable, "-P", "-m", module]


def python_environment() -> dict[str, str]:
    """This process's environment for a child: neither it nor its own children import from the current folder.

    Entries of PYTHONPATH that are empty or relative and name the current folder are left out, which is logged; other
    relative ones are written as absolute ones. An absolute entry is the user's word and stays, whatever it names.
    """
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    path = environment.pop("PYTHONPATH", "")
    if path:
        entries = path.split(os.pathsep)
        kept = [os.path.abspath(entry) for entry in entries if not _names_current_folder(entry)]
        if len(kept) < len(entries):
            logger.warning("PYTHONPATH names the current folder; processes of Quire import nothing from there")
        if kept:
            environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def leave_current_folder() -> None:
    """Takes the current folder off the import path of this process, for commands; what is imported stays.

    It is there when an entry of PYTHONPATH is empty or relative, or Python was started with `-m` and without `-P`.
    What Python and `quire` imported before this call came from there already: `python -m` in a folder that is not
    trusted needs `-P`; the `quire` command does not.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.environ.get("PYTHONPATH") else []
    was_m = getattr(sys.modules["__main__"], "__spec__", None) is not None and not sys.flags.safe_path
    try:
        here = os.getcwd()
    except OSError:  # it was removed, so that nothing can be imported from it
        return
    if (was_m or any(map(_names_current_folder, entries))) and here not in entries:
        sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) != here]


def _names_current_folder(entry: str) -> bool:
    return not os.path.isabs(entry) and os.path.normpath(entry) == os.curdir
