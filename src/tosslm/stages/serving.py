"""Scoring by an inference server: admitted once its losses of some custom rows agree with this process's own.

A server's log-probabilities of prompts under LoRA have been wrong in public releases, without a word. So this process
computes the losses of a sample of rows first, lets its weights go, starts the server, and compares.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tosslm.config import Config, ServerConfig
from tosslm.errors import InputError, TosslmError
from tosslm.findings.served import served_told
from tosslm.model.served import ServedLosses
from tosslm.model.server import Serving, running
from tosslm.runs.layout import DATA, PROXY
from tosslm.selection.agreement import Bounds, Losses, compare_losses
from tosslm.stages.reading import Places, Reading, Rows, reading
from tosslm.team import current
from tosslm.workbench import Workbench

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `vllm serve --max-lora-rank` takes."""
_FLOAT32 = Bounds(largest_difference=1e-3, mean_difference=1e-4, mask_change=0.01)
_16_BITS = Bounds(largest_difference=2.0, mean_difference=0.1, mask_change=0.25)
"""Two right programs are as far apart as 16 bits round; docs/scaling.md has what that came to."""
_MAY_BE = (
    "It may leave adapters out or mix them up, tell of a token beside, or compute in another dtype; try another "
    "release of it, or set scoring.engine: local"
)


def check_server(config: Config) -> None:
    """Refuse at the door where no server can be started.

    Raises:
        InputError: this is one of several processes of a launcher, or the command is not found.
    """
    if current() is not None:
        raise InputError(
            "scoring.engine: vllm starts a server of its own and not from within a launcher's processes; score "
            "without the launcher, `toss score`, and start it again afterwards; `--until references` before it "
            "trains the references with the launcher"
        )
    name = config.scoring.server.command[0]
    if shutil.which(name) is None:
        raise InputError(
            f"scoring.server.command: {name} is not found; install vLLM in an environment of its own and name its "
            "command, such as [/path/to/bin/vllm], or set scoring.engine: local"
        )


@contextmanager
def serving(
    bench: Workbench, adapters: Mapping[str, Path], sample: Rows, places: Places, tell: Callable[[str], None]
) -> Iterator[Reading]:
    """A server of the references, checked, for as long as the block runs.

    Args:
        bench: whose base the references sit on; its weights are let go.
        adapters: ``utility`` and ``degraded``.
        sample: rows to check the server with, as the references' model reads them.
        places: where files go.
        tell: called with what is being done, again and again; it may raise.

    Raises:
        InputError: this is one of several processes of a launcher, or there is no such command.
        TosslmError: the server does not start, or its losses are not ours.
    """
    from tosslm.model.base import let_go

    check_server(bench.config)
    settings = bench.config.scoring.server
    with reading(bench, adapters) as own:
        known = _losses_of(own, adapters, sample, lambda: tell("rows to check the server with"))
    with _base_folder(bench, places.work) as folder:
        let_go(bench.reference_base, bench.base)
        what = Serving(settings.command, _arguments(bench, folder, adapters), places.server_log, settings.seconds)
        bench.reporter.say(f"starting {settings.command[0]}; its log is {places.server_log}")
        with running(what, lambda: tell("waiting for the server")) as server:
            served = Reading(ServedLosses(server, settings.in_flight).losses)
            found = _losses_of(served, adapters, sample, lambda: tell("checking the server"))
            yield replace(served, facts={"server": _checked(bench, server.version, known, found)})


def _losses_of(who: Reading, adapters: Iterable[str], rows: Rows, tell: Callable[[], None]) -> Losses:
    return {name: who.losses(name, rows, lambda *_: tell()) for name in adapters}


@contextmanager
def _base_folder(bench: Workbench, work: Path) -> Iterator[Path]:
    """A folder with the base's weights: its own, or where an adapter is merged into it, one that the block has.

    A degraded reference is merged into nothing; it reaches the server as an adapter.
    """
    base = bench.reference_base
    if base.adapter_folder is None:
        yield base.folder.resolve()
        return
    from tosslm.model.base import save_model

    with tempfile.TemporaryDirectory(prefix="base-", dir=work) as folder:
        save_model(base, base.model, Path(folder))
        yield Path(folder).resolve()


def _arguments(bench: Workbench, folder: Path, adapters: Mapping[str, Path]) -> list[str]:
    """What the server's command is told; the config's own arguments stand before those that have to hold."""
    config, stage = bench.config, bench.folder.stages[PROXY if bench.proxy else DATA]
    longest = max(counts["longest"] for counts in stage["sets"].values())
    settings = [json.loads((path / "adapter_config.json").read_text(encoding="utf-8")) for path in adapters.values()]
    modules = sorted({name for one in settings for name in one["target_modules"]})
    return [
        *("serve", str(folder), "--no-enable-prefix-caching"),
        # Else the head is wrapped too, which no adapter here touches, and vLLM 0.32 fails there on a CPU.
        *("--lora-target-modules", *modules),
        *config.scoring.server.arguments,
        *("--dtype", _dtype(config), "--max-model-len", str(longest + 1)),
        *(("--trust-remote-code",) if bench.reference_base.config.trust_remote_code else ()),
        *("--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(_rank(settings))),
        "--lora-modules",
        *(json.dumps({"name": name, "path": str(path.resolve())}) for name, path in adapters.items()),
    ]


def _dtype(config: Config) -> str:
    from tosslm.model.device import choose_device, choose_dtype

    return str(choose_dtype(config.model.dtype, choose_device(config.model.device))).removeprefix("torch.")


def _rank(settings: Sequence[Mapping[str, Any]]) -> int:
    rank = max(one["r"] for one in settings)
    if rank > _RANKS[-1]:
        raise InputError(f"references.lora.r: {rank} is more than vLLM serves, {_RANKS[-1]}; set engine: local")
    return next(known for known in _RANKS if known >= rank)


def _bounds(settings: ServerConfig, dtype: str) -> Bounds:
    usual = _FLOAT32 if dtype == "float32" else _16_BITS
    return Bounds(
        **{
            name: value if (said := getattr(settings, name)) == "auto" else said
            for name, value in asdict(usual).items()
        }
    )


def _checked(bench: Workbench, version: str, own: Losses, served: Losses) -> dict[str, Any]:
    """Facts for the manifest, if a server's losses are near enough to ours.

    Raises:
        TosslmError: they are not.
    """
    settings, selection = bench.config.scoring.server, bench.config.selection
    share = 0.1 if selection.discard_fraction == "auto" else selection.share
    found = compare_losses(own, served, share)
    facts = {"version": version, **asdict(found), "mask_change": found.mask_change, "discard_fraction": share}
    if beyond := _bounds(settings, _dtype(bench.config)).exceeded(found):
        raise TosslmError(
            f"scoring.server: not to be trusted. {served_told(facts)} That is beyond the {' and the '.join(beyond)} "
            f"of scoring.server. {_MAY_BE}"
        )
    bench.reporter.say(served_told(facts) + ("" if found.rows >= settings.check_rows else " There are no more rows."))
    return facts
