"""Where scoring runs, refused at the door where it could not."""

from __future__ import annotations

from tosslm.config import Config
from tosslm.door import check_local
from tosslm.stages.cluster import check_ray
from tosslm.stages.serving import check_server


def check_engine(config: Config) -> None:
    """Refuse before anything is trained what could not score afterwards. No cluster and no server has to be up.

    Raises:
        InputError: Ray is missing, or the run folder is none that its workers could see; or a server cannot be
            started.
    """
    if config.scoring.engine == "ray":
        check_local(
            config.run_dir,
            "scoring.engine: ray",
            "name one that all machines of the cluster see, or set scoring.engine: local: the degraded reference, "
            "which every worker reads, is never uploaded",
        )
        check_ray()
    if config.scoring.engine == "vllm":
        check_server(config)
