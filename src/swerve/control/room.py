"""Whether the machine has room for an instance: files that its processes may open, and space on its disk."""

from __future__ import annotations

import os
import resource
from pathlib import Path

# With a few replicas and clients, every process of an instance has some dozens open.
_FILES = 64
# A store and the first logs.
_DISK_BYTES = 1 << 20

_FEW_FILES = (
    "A process may open {files} files here, which is too few for an instance. Raise the limit (`ulimit -n 1024`, "
    "`LimitNOFILE` of systemd), then start again."
)
_FULL_DISK = (
    "The disk of the state folder {folder} is full. Make room there, or choose another folder with --state-dir or "
    "SWERVE_STATE_DIR."
)


def shortage(folder: Path) -> str:
    """What an instance in this folder lacks, with what to do; "" if nothing."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _FILES:
        return _FEW_FILES.format(files=files)
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < _DISK_BYTES or (disk.f_files and not disk.f_favail):
        return _FULL_DISK.format(folder=folder)
    return ""
