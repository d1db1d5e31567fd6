"""A base whose layers lie spread over the processes of a launcher, FSDP2: a model larger than one GPU.

Each process holds a part of every layer, and gathers a whole one while it is computed with. Embeddings, head and
adapters lie whole in each. What all processes do together, a training, gathers by itself. What the first does alone
(scores, answers, distances) does not: before each forward pass of it the others are told, and lend their parts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tosslm.errors import InputError, TosslmError
from tosslm.model.base import Base, load_model
from tosslm.model.device import choose_device
from tosslm.model.layers import decoder_layers
from tosslm.team import Team

_KEY = "use_fsdp of accelerate's config"


class Shards:
    """Loads bases so that their layers lie spread over a team, and lends this process's parts to the first.

    Args:
        team: the processes, in one process group.
        bases: by the config's key of each; they are loaded through this from now on.

    Raises:
        InputError: this PyTorch is too old, or a base is quantised.
    """

    def __init__(self, team: Team, bases: Mapping[str, Base]) -> None:
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise InputError(f"{_KEY}: torch {torch.__version__} is too old for it; install torch 2.13 or later")
        for base in bases.values():
            if base.config.quantize:
                raise InputError(
                    f"{_KEY}: a base of {base.config.quantize} is not sharded; set model.quantize: null, or take "
                    "configs/accelerate/ddp.yaml"
                )
        self._team, self._bases = team, bases
        for base in bases.values():
            base.shards = self

    def load(self, base: Base) -> Any:
        """A base's weights, of each layer this process's part; all processes load, one after another.

        While it is its turn, a process holds the whole model in the machine's memory.

        Raises:
            InputError: as for ``load_model``, or it is not known how to shard the model.
        """
        self._tell("load", base)
        device = choose_device(base.config.device)
        mesh = init_device_mesh(device.type, (self._team.place.count,))
        model: Any = None
        for rank in range(self._team.place.count):
            if rank == self._team.place.rank:
                model = load_model(base, torch.device("cpu"))
                _shard(model, base.keys.name, device, mesh)
            distributed.barrier()
        with torch.no_grad():
            # The first pass sets FSDP up; a training could not use what it would set up in inference mode.
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)
        if self._team.place.leads:
            _Announced(self._team, lambda: self._tell("read", base)).watch(model.base_model)
        return model

    def release(self, base: Base) -> None:
        """The others let a base's weights go as the first process has."""
        self._tell("release", base)
        gc.collect()  # FSDP's modules hold each other

    def follow(self, order: Mapping[str, str]) -> bool:
        """Do what the first process's work with a base asks of the others.

        Returns:
            Whether the order was one of these.
        """
        for does, key in order.items():
            if does in _ANSWERS:
                _ANSWERS[does](self._bases[key])
                return True
        return False

    def _tell(self, does: str, base: Base) -> None:
        if self._team.place.leads and not self._team.joined:
            self._team.give({does: base.keys.name})


def _load(base: Base) -> None:
    assert base.model is not None


def _lend(base: Base) -> None:
    """Take part in a forward pass of the first process: gather each layer as it does, and let it go."""
    for layer in decoder_layers(base.model):
        assert isinstance(layer, FSDPModule)
        layer.unshard()
        layer.reshard()


_ANSWERS: dict[str, Callable[[Base], None]] = {"load": _load, "read": _lend, "release": Base.release}


class _Announced:
    """Tells the others of each forward pass that the first process does alone."""

    def __init__(self, team: Team, tell: Callable[[], None]) -> None:
        self._team, self._tell, self._begun = team, tell, False

    def watch(self, stack: torch.nn.Module) -> None:
        """Look out for forward passes of a model's layers."""
        stack.register_forward_pre_hook(self._begin, prepend=True)
        stack.register_forward_hook(self._end)

    def _begin(self, _: Any, __: Any) -> None:
        if self._team.joined:
            return
        if torch.is_grad_enabled():
            raise InputError(
                f"{_KEY}: this needs gradients outside a training, which one process cannot compute with a part of "
                "the model; take configs/accelerate/ddp.yaml, or another method"
            )
        if self._begun:
            # The others wait in the middle of the pass that broke off, and would give other layers' weights.
            raise TosslmError(
                "a forward pass of the sharded model broke off, most likely for want of memory, and cannot be tried "
                "again with fewer rows; lower scoring.batch_tokens, evaluation.batch_size or data.max_length"
            )
        self._begun = True
        self._tell()

    def _end(self, stack: Any, _: Any, __: Any) -> None:
        if not self._team.joined:
            # FSDP learns from forward passes in which order to gather layers in a backward pass. The others have
            # done no such pass, and the order has to be the same everywhere.
            stack.reset_iter_state()
            self._begun = False


def frozen(model: Any) -> list[str]:
    """Names of a model's weights that are not trained."""
    return [name for name, weight in model.named_parameters() if not weight.requires_grad]


def _shard(model: Any, key: str, device: torch.device, mesh: DeviceMesh) -> None:
    """Leave of each layer this process's part on the device, and of all else the whole.

    The head is used outside the model's forward. With the embeddings, sharding it would save nothing at the peak:
    both would be whole from a training step's first layer to its last.
    """
    try:
        layers = decoder_layers(model)
    except TosslmError as error:
        raise InputError(f"{_KEY}: {key}: {error}") from error
    inside, stack = set(layers.modules()), model.base_model
    if not inside < set(stack.modules()) or stack is model:
        raise InputError(
            f"{_KEY}: {key}: {type(model).__name__} is not built of a stack of layers and a head, and cannot be "
            "sharded; take configs/accelerate/ddp.yaml"
        )
    for module in model.modules():
        if module not in inside:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensor.data = tensor.data.to(device)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(stack, mesh=mesh, ignored_params=set(model.parameters()) - set(layers.parameters()))
