"""What is tried again and again, and may fail for a while."""

from __future__ import annotations

import logging


class RepeatedFault:
    """Logs that something fails, once until it works again."""

    def __init__(self, logger: logging.Logger, message: str) -> None:
        self._logger = logger
        self._message = message
        self._lasts = False

    def failed(self, error: Exception) -> None:
        """It has failed, perhaps not for the first time."""
        if not self._lasts:
            self._logger.error(self._message, exc_info=error)
        self._lasts = True

    def worked(self) -> None:
        """It works, perhaps again."""
        self._lasts = False
