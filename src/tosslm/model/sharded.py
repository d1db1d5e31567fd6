"""A base whose layers lie spread over the processes of a launcher, FSDP2: a model larger than one GPU.

Each process holds a part of every layer, and gathers a whole one while it is computed with. Embeddings, head and
adapters lie whole in each. What all processes do together, a training, gathers by itself. What the first does alone
(scores, answers, distances) does not: before each forward pass of it the others are told, and lend their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tosslm.errors import InputError, TosslmError
from tosslm.model.base import Base, choose_device, load_model
from tosslm.model.layers import decoder_layers
from tosslm.team import Team


class Shards:
    """The bases that a team has spread over its processes; the parts of those that are loaded.

    Args:
        team: the processes, in one process group.
        bases: by the config's key of each; they are loaded through this from now on.
    """

    def __init__(self, team: Team, bases: Mapping[str, Base]) -> None:
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise InputError(
                f"use_fsdp of accelerate's config: torch {torch.__version__} shards in a way that only trainings can "
                "use; install torch 2.13 or later"
            )
        self._team, self._bases = team, bases
        for base in bases.values():
            base.shards = self

    def load(self, base: Base) -> Any:
        """A base's weights, of each layer this process's part; all processes load at once, one after another.

        A process holds all weights of the model in the machine's memory while it is its turn.

        Raises:
            InputError: as for ``load_model``, or the model's layers are not found.
        """
        self._tell("load", base)
        device = choose_device(base.config.device)
        mesh = init_device_mesh(device.type, (self._team.place.count,))
        model = None
        for rank in range(self._team.place.count):
            if rank == self._team.place.rank:
                model = load_model(base, torch.device("cpu"))
                _shard(model, device, mesh)
            distributed.barrier()
        assert model is not None
        with torch.no_grad():
            # The first pass sets FSDP up. Arrays that it made in inference mode would be of no use to a training.
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)
        if self._team.place.leads:
            _Told(self._team, lambda: self._tell("read", base)).watch(_stack(model))
        return model

    def release(self, base: Base) -> None:
        """The others let a base's weights go, too."""
        self._tell("release", base)

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


class _Told:
    """Tells the others of each forward pass that the first process does alone."""

    def __init__(self, team: Team, tell: Callable[[], None]) -> None:
        self._team, self._tell, self._begun = team, tell, False

    def watch(self, stack: FSDPModule) -> None:
        assert isinstance(stack, torch.nn.Module)
        stack.register_forward_pre_hook(self._begin, prepend=True)
        stack.register_forward_hook(self._end)

    def _begin(self, _: Any, __: Any) -> None:
        if self._team.joined:
            return
        if torch.is_grad_enabled():
            raise InputError(
                "use_fsdp of accelerate's config: gradients are asked for by one process alone, which holds a part of "
                "the model; take configs/accelerate/ddp.yaml, or another method"
            )
        if self._begun:
            # The others are somewhere in the pass that broke off, and would send other layers' weights.
            raise TosslmError(
                "a forward pass of the sharded model broke off, for want of memory most likely, and cannot be tried "
                "again in parts; lower scoring.batch_tokens, evaluation.batch_tokens or data.max_length"
            )
        self._begun = True
        self._tell()

    def _end(self, stack: Any, _: Any, __: Any) -> None:
        if not self._team.joined:
            # The order in which a backward pass gathers layers is learnt from forward passes; all have to learn the same.
            stack.reset_iter_state()
            self._begun = False


def is_sharded(model: Any) -> bool:
    """Whether a model's layers lie spread over processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def frozen(model: Any) -> list[str]:
    """Names of a model's weights that are not trained."""
    return [name for name, weight in model.named_parameters() if not weight.requires_grad]


def _stack(model: Any) -> torch.nn.Module:
    """The module that calls the layers one after another."""
    return model.base_model


def _shard(model: Any, device: torch.device, mesh: Any) -> None:
    """Leave of each layer this process's part on the device, and of all else the whole.

    The head is used outside the model's forward, and with the embeddings would be whole from the first layer's
    forward to its backward in any case.
    """
    layers = decoder_layers(model)
    inside = set(layers.modules())
    for module in model.modules():
        if module not in inside:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensor.data = tensor.data.to(device)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(_stack(model), mesh=mesh, ignored_params=set(model.parameters()) - set(layers.parameters()))
