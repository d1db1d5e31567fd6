"""What `accelerate launch` asks of the libraries behind the run's config: heeded, or refused.

It passes its config on in the environment, where accelerate and transformers read it by themselves. So what is
neither done here nor refused would change a training, or be dropped, without a word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from tosslm.errors import InputError

_DDP = "configs/accelerate/ddp.yaml"


def heed_launcher(*, cpu: bool) -> bool:
    """Refuse what a launcher of one process or of many asks of the libraries behind the config's back.

    Args:
        cpu: whether the config's device is the CPU.

    Returns:
        Whether it asks for sharded models.

    Raises:
        InputError: names the key of accelerate's config.
    """
    refuse_launch(os.environ, cpu=cpu)
    return _take_sharding(os.environ)


def asks_for_cpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher has trainings go to the CPU, whatever device the config says."""
    return _says(environment, "ACCELERATE_USE_CPU")


def refuse_launch(environment: Mapping[str, str], *, cpu: bool = True) -> None:
    """Refuse what `accelerate launch` passes on of its config and trainings here would not heed.

    Args:
        environment: of this process.
        cpu: whether the config's device is the CPU.

    Raises:
        InputError: names the key of accelerate's config.
    """
    for variable, (key, why) in _CHOICES.items():
        if (said := environment.get(variable, "no")).lower() != "no":
            raise InputError(f"{key} of accelerate's config is {said}: {why}; set {key} to 'no'")
    for variable, (key, why) in _FLAGS.items():
        if _says(environment, variable):
            raise InputError(f"{key} of accelerate's config: {why}")
    if asks_for_cpu(environment) and not cpu:
        raise InputError(
            "use_cpu of accelerate's config: trainings would go to the CPU, and model.device is another device; set "
            "model.device: cpu, or leave out use_cpu and --cpu"
        )
    if _says(environment, "ACCELERATE_USE_FSDP"):
        for (variable, key), (heeded, why) in _FSDP.items():
            said = environment.get(variable, heeded)
            if said.lower() != heeded.lower():
                raise InputError(
                    f"fsdp_config.{key} of accelerate's config is {said}: {why}; take configs/accelerate/fsdp2.yaml"
                )


_CHOICES = {
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "trainings compute in model.dtype"),
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", "models are not compiled"),
}

_FLAGS = {
    "ACCELERATE_USE_DEEPSPEED": ("use_deepspeed", f"not there; take {_DDP}"),
    "ACCELERATE_USE_MEGATRON_LM": ("use_megatron_lm", f"not there; take {_DDP}"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (
        "parallelism_config",
        "there is no tensor, context or sequence parallelism, and models are sharded over all processes; leave it "
        "out, and take configs/accelerate/fsdp2.yaml as it is",
    ),
}

_FSDP = {
    ("FSDP_VERSION", "fsdp_version"): ("2", "models are sharded by FSDP2"),
    ("FSDP_OFFLOAD_PARAMS", "fsdp_offload_params"): ("false", "weights stay on their device"),
    ("FSDP_RESHARD_AFTER_FORWARD", "fsdp_reshard_after_forward"): (
        "true",
        "a layer is let go after its forward pass",
    ),
    ("FSDP_AUTO_WRAP_POLICY", "fsdp_auto_wrap_policy"): (
        "TRANSFORMER_BASED_WRAP",
        "a model is sharded layer by layer",
    ),
    ("FSDP_TRANSFORMER_CLS_TO_WRAP", "fsdp_transformer_layer_cls_to_wrap"): (
        "",
        "a model's layers are found without",
    ),
    ("FSDP_IGNORED_MODULES", "fsdp_ignored_modules"): ("", "all layers are sharded"),
    ("FSDP_ACTIVATION_CHECKPOINTING", "fsdp_activation_checkpointing"): (
        "false",
        "finetune.gradient_checkpointing and references.gradient_checkpointing of the run's config ask for it",
    ),
    ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "fsdp_activation_checkpointing_offload"): (
        "false",
        "activations stay on their device",
    ),
    ("FSDP_FORWARD_PREFETCH", "fsdp_forward_prefetch"): ("false", "FSDP2 has no such thing"),
}
"""Keys that FSDP2 and trainings here might be thought to heed. The others are without effect, docs/scaling.md."""


def _take_sharding(environment: MutableMapping[str, str]) -> bool:
    """Whether the launcher asks for sharded models; it does so no longer of the libraries, for it is done here."""
    asked = _says(environment, "ACCELERATE_USE_FSDP")
    environment["ACCELERATE_USE_FSDP"] = "false"
    return asked


def _says(environment: Mapping[str, str], variable: str) -> bool:
    """Whether a variable is set, as any of the libraries that read it would see it."""
    return environment.get(variable, "").lower() in {"true", "1", "yes", "y", "on", "t"}
