"""What is refused before anything is done, by a run as by its plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tosslm.config import Config
from tosslm.data.rows import BadRow, file_names, raw_files, source_rows
from tosslm.errors import InputError
from tosslm.files import no_folder
from tosslm.launcher import asks_for_cpu, heed_launcher
from tosslm.remote import is_url
from tosslm.runs.decisions import read_decisions
from tosslm.runs.layout import Layout
from tosslm.team import place


def check_places(config: Config) -> None:
    """Refuse a run folder that holds what the run reads: a step may replace what stands there.

    Raises:
        InputError: names the key and the path.
    """
    if is_url(config.run_dir):
        _check_urls(config)
        return
    folder = Path(config.run_dir).resolve()
    if folder.exists() and not folder.is_dir():
        raise no_folder(Path(config.run_dir))
    for key, path in _inputs(config):
        if path.resolve().is_relative_to(folder):
            raise InputError(
                f"{key}: {path} lies in the run folder {config.run_dir}, where a run writes; name another run_dir, "
                "or move it"
            )


def _check_urls(config: Config) -> None:
    inside = config.run_dir.rstrip("/") + "/"
    for name, source in config.data.sources.items():
        if found := [one for one in file_names(source.path) if one.startswith(inside)]:
            raise InputError(
                f"data.{name}.path: {found[0]} lies in the run folder {config.run_dir}, where a run writes; name "
                "another run_dir, or move it"
            )


def check_local(run_dir: str, what: str, remedy: str) -> None:
    """Refuse a run folder at a URL for what needs one on a disk.

    Args:
        run_dir: the folder.
        what: needs it.
        remedy: what to do instead.

    Raises:
        InputError: it is a URL.
    """
    if is_url(run_dir):
        raise InputError(f"run_dir: {run_dir} is no folder on a disk, which {what} needs; {remedy}")


def check_launcher(config: Config) -> bool:
    """Refuse what this process's launcher asks of the libraries behind the config's back.

    Returns:
        Whether it asks for sharded models.

    Raises:
        InputError: names the key of accelerate's config.
    """
    return heed_launcher(cpu=not asks_for_cpu() or on_cpu(config))


def on_cpu(config: Config) -> bool:
    """Whether the run's device is the CPU. To find out takes the time to load PyTorch.

    Raises:
        InputError: there is no such device.
    """
    from tosslm.model.device import choose_device

    return choose_device(config.model.device).type == "cpu"


def check_several(run_dir: str, device: str) -> None:
    """Refuse for several processes a folder that not all of them see, and a device that all would share.

    Args:
        run_dir: as the config has it.
        device: as ``model.device`` names it.

    Raises:
        InputError: names the key.
    """
    if (count := place().count) == 1:
        return
    check_local(run_dir, "one training on several processes", "name a folder that all of them see")
    kind, _, number = device.partition(":")
    if number and kind != "cpu":
        raise InputError(
            f"model.device: {device} would put {count} processes on one device; set model.device: {kind}, of which "
            "each process takes its own (CUDA_VISIBLE_DEVICES chooses among them)"
        )


def check_processes(method: str) -> None:
    """Refuse several processes for a method that works around each training step of one.

    Raises:
        InputError: names the method.
    """
    if (count := place().count) > 1:
        raise InputError(
            f"method: {method} does something around each training step that is made for one process, and {count} "
            "were started; start it without a launcher, or stop before: --until select"
        )


def check_overrides(config: Config, *, selects: bool = True) -> None:
    """Refuse decisions that cannot be read, that stand where a step writes, or that nothing would heed.

    Args:
        config: the config.
        selects: whether its method trains, and so selects, at all.

    Raises:
        InputError: names the file and the line, or the key.
    """
    if config.selection.overrides is None:
        return
    if not selects:
        raise InputError(
            f"selection.overrides: {config.method} trains nothing, so there is no token to keep or drop; leave the "
            "key out"
        )
    path, folder = Path(config.selection.overrides), Path(config.run_dir).resolve()
    inside = path.resolve().is_relative_to(folder)
    if inside and path.resolve().parent != folder:
        raise InputError(
            f"selection.overrides: {path} lies in a folder of the run, where a step may write; move it to "
            f"{Layout(folder).overrides.name} right in {config.run_dir}, or elsewhere"
        )
    read_decisions(path)


def check_rows(config: Config) -> None:
    """Read the sets to their ends, before something is removed for their sake.

    Raises:
        InputError: a file cannot be read, a set has no row, or a row is bad and ``on_bad_row`` is ``error``.
    """
    for name, source in config.data.sources.items():
        good = False
        for row in source_rows(source, config.data.max_row_bytes, key=f"data.{name}"):
            if not isinstance(row, BadRow):
                good = True
            elif config.data.on_bad_row == "error":
                raise InputError(f"data.{name}: {row.origin}: {row.reason}; {row.remedy}")
        if not good:
            raise InputError(f"data.{name}: {source.path} has no usable row; name a file with rows in it")


def _inputs(config: Config) -> Iterator[tuple[str, Path]]:
    for name, source in config.data.sources.items():
        yield from ((f"data.{name}.path", file) for file in raw_files(source.path))
    models = {
        "model.name": config.model.name,
        "model.adapter": config.model.adapter,
        "references.model": config.references.model,
        "references.adapter": config.references.adapter,
    }
    for key, named in models.items():
        if named and Path(named).exists():
            yield key, Path(named)
