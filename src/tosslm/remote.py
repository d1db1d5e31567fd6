"""Files that a URL names: through fsspec, whose drivers know S3, HTTP and many others."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from tosslm.errors import InputError, TosslmError
from tosslm.outward import without_secrets

_PACKAGES = {"s3": "tosslm[s3]", "s3a": "tosslm[s3]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_CHUNK = 1 << 20
_known: dict[tuple[str, str], str] = {}


def is_url(name: str) -> bool:
    """Whether a name is of a file elsewhere: ``s3://bucket/x``, but not ``file:///x``, which is a path."""
    return "://" in name and not name.startswith(("file://", "local://"))


def local_name(name: str) -> str:
    """The path that a ``file://`` URL names; any other name as it is.

    Raises:
        InputError: it is a chain of file systems.
    """
    if "://" not in name or is_url(name):
        return name
    _refuse_chain(name)
    return str(fsspec.url_to_fs(name)[1])


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, with no listing of an earlier time in it, and the path there.

    Raises:
        InputError: no driver for it is known or installed, or it is a chain of file systems.
    """
    _refuse_chain(url)
    scheme = url.split("://")[0]
    try:
        system, path = fsspec.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        remedy = f'pip install "{package}"' if package else "install the driver"
        raise InputError(f"{url}: {error}; {remedy}, or copy the file here") from error
    except Exception as error:  # a driver of files in other files, say, is not told in which
        raise InputError(f"{url}: {error}; check the scheme, or copy the file here") from error
    system.invalidate_cache()
    return system, path


def _refuse_chain(url: str) -> None:
    """Refuse file systems in file systems: some of these read templates, that is code, from the files below.

    A URL may come with a run folder from anywhere.
    """
    if "::" in url:
        raise InputError(f"{url}: chains of file systems (::) are not opened; copy the file here, unpacked")


class _RemoteFile(io.RawIOBase):
    """A file of a driver, whose errors, of whatever kind, become `OSError`, as those of a disk are."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._opened.seekable())

    def tell(self) -> int:
        return int(self._opened.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(_as_os_error(self._opened.seek, offset, whence))

    def readinto(self, buffer: Any) -> int:
        piece = _as_os_error(self._opened.read, len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _as_os_error(work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except Exception as error:  # drivers raise what their network libraries do
        raise OSError(f"{type(error).__name__}: {without_secrets(str(error))}") from error


@contextmanager
def open_remote(url: str) -> Iterator[io.RawIOBase]:
    """The bytes of a remote file; errors while they are read are `OSError`.

    Raises:
        InputError: it is not there, or cannot be opened.
    """
    system, path = file_system(url)
    try:
        opened = system.open(path, "rb")
    except FileNotFoundError:
        raise InputError(f"{url}: no such file; check the URL") from None
    except Exception as error:
        raise InputError(
            f"{url}: cannot be opened ({type(error).__name__}: {without_secrets(str(error))}); check the URL, your "
            "rights there, and the network"
        ) from error
    with opened:
        yield _RemoteFile(opened)


def remote_sha256(url: str) -> str:
    """Hex SHA-256 of a remote file's bytes.

    A file with an entity tag is read once: as long as tag and size are the same, so are the bytes.

    Raises:
        InputError: it is not there, or cannot be opened.
        TosslmError: it cannot be read to its end.
    """
    key = (url, _tag(url))
    if key[1] and key in _known:
        return _known[key]
    digest = hashlib.sha256()
    try:
        with open_remote(url) as opened:
            while piece := opened.read(_CHUNK):
                digest.update(piece)
    except OSError as error:
        raise TosslmError(f"{url}: cannot be read to its end ({error}); try again") from error
    _known[key] = digest.hexdigest()
    return _known[key]


def _tag(url: str) -> str:
    """What a store says that changes with a file's bytes; empty where it says nothing of the kind."""
    system, path = file_system(url)
    try:
        info = system.info(path)
    except Exception:  # opening it says what is wrong
        return ""
    tag = info.get("ETag")
    return f"{tag} {info.get('size')} {info.get('LastModified')}" if tag else ""
