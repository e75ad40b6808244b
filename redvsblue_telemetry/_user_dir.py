"""Where the journal of a game belongs on the player's machine.

The rules are those of the package ``platformdirs``, which is not one of the dependencies, since
every player would download it for this one name. Games may have an author's folder on each
system, as with Unity, and not on Windows only.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

__all__ = ["user_journal_dir"]

logger = logging.getLogger("redvsblue_telemetry")

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]')
# https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
_DEVICES = {
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789\u00b9\u00b2\u00b3"),
}
_LOCAL_APP_DATA = bytes.fromhex("8527b3f1ba6fcf4f9d557b8e7f157091")  # FOLDERID_LocalAppData
_DONT_VERIFY = 0x4000  # KF_FLAG_DONT_VERIFY: the journal makes what is missing


def user_journal_dir(game: str, author: str | None = None) -> Path | None:
    r"""Return the directory for the journal of a game, in the player's own files.

    The player can write there without an administrator's rights, an update of the game leaves it
    alone, and nothing copies it to other machines::

        start_telemetry(journal=user_journal_dir("Red vs Blue", "Example Studio"))

    On Windows, this is ``%LOCALAPPDATA%\Example Studio\Red vs Blue\telemetry``; on macOS,
    ``~/Library/Application Support/Example Studio/Red vs Blue/telemetry``; elsewhere,
    ``~/.local/state/Example Studio/Red vs Blue/telemetry``, or the same in ``$XDG_STATE_HOME``.
    Nothing is created; the journal does that.

    Args:
        game: the name of the game's folder. It should stay the same in all versions of the game.
        author: the name of a folder around it, such as that of a studio.

    Returns:
        The directory; None, with one WARNING, if the account has no home directory, as that of a
        service may. ``start_telemetry`` then keeps events in memory only.

    Raises:
        ValueError: a name can't be that of a folder on Windows. It is raised on each system, so
            that no player is the first to see it.
    """
    folders = [_checked("game", game), "telemetry"]
    if author is not None:
        folders.insert(0, _checked("author", author))
    base = _base()
    if base is None or not os.path.isabs(base):
        logger.warning("the journal has no place: this account has no home directory")
        return None
    return Path(base, *folders)


def _checked(argument: str, name: str) -> str:
    fault = None
    if not name:
        fault = "must not be empty"
    elif found := _FORBIDDEN.search(name):
        fault = f"must not contain {found[0]!r}"
    elif name[0] == " " or name[-1] in " .":
        fault = "must not begin with a space, nor end with a space or a dot"
    elif name.partition(".")[0].rstrip(" ").upper() in _DEVICES:
        fault = "is the name of a device"
    if fault:
        raise ValueError(f"{argument}={name!r} can't name a folder on every system: it {fault}")
    return name


def _base() -> str | None:
    """Return the player's directory for what programs keep; may be relative, and so be useless."""
    if sys.platform == "win32":
        return _local_app_data() or os.environ.get("LOCALAPPDATA")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support")
    # By the XDG specification, a relative path in the variable is to be ignored.
    state = os.environ.get("XDG_STATE_HOME", "")
    return state if os.path.isabs(state) else os.path.expanduser("~/.local/state")


if sys.platform == "win32":

    def _local_app_data() -> str | None:
        """Ask Windows. A launcher may have started the game without the variable."""
        import ctypes  # noqa: PLC0415 (needed once, and by nothing else)

        # Libraries of our own: others may have set other types for the functions of `windll`.
        find = ctypes.WinDLL("shell32").SHGetKnownFolderPath
        find.argtypes = (ctypes.c_char_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)
        free = ctypes.WinDLL("ole32").CoTaskMemFree
        free.argtypes, free.restype = (ctypes.c_void_p,), None
        found = ctypes.c_wchar_p()
        failed = find(_LOCAL_APP_DATA, _DONT_VERIFY, None, ctypes.byref(found))
        path = found.value
        free(found)
        return None if failed else path
