"""The firmware for each board, built once a test session where its trees are at hand. No test lives here."""

import os
from pathlib import Path

import pytest

from propeller.emulation import boards, firmware
from propeller.errors import EnvironmentError_

_made: dict[str, boards.Image | str] = {}


def firmware_image(board: str, directory: Path) -> boards.Image:
    """The image, built in `directory` or in `PROPELLER_FIRMWARE_BUILD`; a visible skip without trees."""
    if board not in _made:
        _made[board] = _make(board, Path(os.environ.get("PROPELLER_FIRMWARE_BUILD", directory)) / board)
    made = _made[board]
    if isinstance(made, str):
        pytest.skip(made)
    return made


def _make(board: str, directory: Path) -> boards.Image | str:
    try:
        return firmware.build(boards.board(board), directory, os.environ)
    except EnvironmentError_ as error:
        if error.reason not in {"no_zephyr", "missing_program"}:
            raise
        return error.message
