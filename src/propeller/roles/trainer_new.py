"""A new trainer's project: the template of a language, copied into a directory of the user's.

Every template builds `trainer.wasm` with `make`, trains logistic regression, and passes `trainer_check`.
"""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from propeller.errors import BadInput, Conflict


def languages() -> list[str]:
    """Languages that have a template."""
    return sorted(one.name for one in _templates().iterdir() if one.is_dir())


def create(language: str, directory: Path) -> list[Path]:
    """Copy the template; the files made. Raises `BadInput` without one, `Conflict` if a file is there."""
    if language not in languages():
        raise BadInput(f"there is no template for {language!r}; there are {', '.join(languages())}")
    template = _templates() / language
    wanted = {directory / name: found for name, found in _files(template).items()}
    if taken := [path for path in wanted if path.exists()]:
        raise Conflict(f"{taken[0]} is there already; choose an empty directory")
    for path, found in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.read_bytes())
    return sorted(wanted)


def _templates() -> Traversable:
    return resources.files("propeller.roles") / "assets" / "trainers"


def _files(folder: Traversable, prefix: str = "") -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for one in folder.iterdir():
        if one.is_dir():
            found |= _files(one, f"{prefix}{one.name}/")
        else:
            found[prefix + one.name] = one
    return found
