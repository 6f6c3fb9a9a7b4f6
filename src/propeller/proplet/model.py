"""The base model of a round on its way to the guest: as text if it is small, else as a file in its folder."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from propeller import limits
from propeller.errors import BadInput, PeerUnavailable, PropellerError
from propeller.fl.model_ref import parse_model_ref
from propeller.fl.versions import GLOBAL_MODEL
from propeller.ports import GuestJob, HttpStreams, Response
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.services import MODEL_REGISTRY, Patience, Services, come_again, get, reason
from propeller.proplet.workspace import Workspace

_OK = 200
_SAFETENSORS = "application/vnd.safetensors"
EXPERIMENT = "FL_JOB_ID"
"""The experiment, in the environment of a round's task."""
MODEL, STATE = "model.safetensors", "state.safetensors"
"""Files that a guest reads; it may write the latter."""


def model_url(uri: str, env: Mapping[str, str], services: Services) -> str:
    """Where the registry has the model. Raises `AttemptFailed`."""
    try:
        ref = parse_model_ref(uri, "MODEL_URI")
    except BadInput as error:
        raise AttemptFailed("model", error.message) from error
    registry = services.find(env, MODEL_REGISTRY)
    if ref.name == GLOBAL_MODEL:
        return f"{registry}/models/{ref.version}"
    return f"{registry}/models/{ref.name}/versions/{ref.version}"


async def fetch_model(
    url: str,
    http: HttpStreams,
    patience: Patience,
    folder: Callable[[], Path] | None,
    *,
    as_file: bool = False,
) -> str | Path:
    """The model's JSON as the registry serves it, or a safetensors file in what `folder` makes.

    The registry chooses by size, unless it is wanted `as_file`. Raises `AttemptFailed`.
    """
    download = _Download(folder)
    try:
        if folder is None:
            answer = await get(http, url, patience)
            await download.take(answer.body)
        else:
            answer = await _downloaded(url, http, patience, download, as_file=as_file)
    except PropellerError as error:
        raise AttemptFailed("model", error.message) from error
    if answer.status != _OK:
        raise AttemptFailed(
            "model", f"the model is not to be had: GET {url} answered {answer.status}: {reason(answer)}"
        )
    if answer.headers.get("content-type", "").startswith(_SAFETENSORS):
        return download.file()
    try:
        return download.content.decode()
    except UnicodeDecodeError as error:
        raise AttemptFailed("model", f"GET {url} answered no UTF-8 text: {error}") from error


async def _downloaded(
    url: str, http: HttpStreams, patience: Patience, download: "_Download", *, as_file: bool
) -> Response:
    """The answer without its body, which `download` has; tried again as `get` does."""
    accept = _SAFETENSORS if as_file else f"application/json, {_SAFETENSORS};q=0.5"
    tries = 0
    while True:
        tries += 1
        download.restart()
        try:
            answer = await http.stream(
                "GET",
                url,
                headers={"accept": accept},
                sink=download.take,
                timeout_s=min(limits.HTTP_STREAM_S, max(patience.left_s, 1.0)),
            )
            if not come_again(answer.status):
                return answer
            why = f"answered {answer.status}: {reason(answer)}"
        except PeerUnavailable as error:
            why = error.message
        if patience.left_s <= 0:
            raise PeerUnavailable(f"GET {url} failed {tries} times, at last: {why}")
        await asyncio.sleep(patience.pause_s(tries))


class _Download:
    """Bytes as they come: in memory, and beyond `limits.DOWNLOAD_MEMORY_BYTES` in a file."""

    def __init__(self, folder: Callable[[], Path] | None) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def content(self) -> bytes:
        """All of it."""
        rest = b"".join(self._parts)
        return self._path.read_bytes() + rest if self._path is not None else rest

    def restart(self) -> None:
        """Forget what came."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._path, self._parts, self._held = None, [], 0

    async def take(self, piece: bytes) -> None:
        """One more piece."""
        self._parts.append(piece)
        self._held += len(piece)
        if self._held > limits.DOWNLOAD_MEMORY_BYTES and self._folder is not None:
            self.file()

    def file(self) -> Path:
        """The file with all that came."""
        if self._path is None:
            if self._folder is None:
                raise AttemptFailed("model", "this proplet has no directory for a model that comes as a file")
            self._path = self._folder() / MODEL
        with self._path.open("ab") as file:
            file.writelines(self._parts)
        self._parts, self._held = [], 0
        return self._path


def bring_state(job: GuestJob, env: Mapping[str, str], workspace: Workspace) -> None:
    """Put what the trainer remembers of this experiment, if anything, beside its model."""
    kept = workspace.state(env.get(EXPERIMENT) or env["ROUND_ID"], job.digest)
    if job.files is not None and kept.exists():
        shutil.copyfile(kept, job.files / STATE)


def keep_state(job: GuestJob, env: Mapping[str, str], workspace: Workspace) -> None:
    """Keep what the trainer wrote for its next round."""
    if job.files is not None and plain(job.files / STATE):
        (job.files / STATE).rename(workspace.state(env.get(EXPERIMENT) or env["ROUND_ID"], job.digest))


def plain(path: Path) -> bool:
    """Whether there is a file of its own: a guest may have made a link to somebody else's."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1


def write_inputs(folder: Path, hyperparams: str, data: str) -> None:
    """What else a trainer finds beside its model."""
    (folder / "dataset").mkdir(exist_ok=True)
    (folder / "dataset" / "data.json").write_text(data)
    (folder / "hyperparams.json").write_text(hyperparams or "{}")
