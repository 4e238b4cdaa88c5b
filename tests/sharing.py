"""train/lora.py among CPUs that share one base, by the code that shares it among GPUs.

Accelerate would not: on a machine without a GPU it leaves sharing out and says nothing. So it is told that these are
GPUs in this one respect. torchrun --nproc_per_node 2 tests/sharing.py [--config FILE] [key=value ...]
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from train import fit
from train.lora import main
from train.processes import is_shared

MACHINE = Path(__file__).parents[1] / "train" / "machines" / "fsdp2.yaml"
SHARED = {"ACCELERATE_USE_FSDP": "true"} | {
    key.upper(): str(value) for key, value in yaml.safe_load(MACHINE.read_text())["fsdp_config"].items()
}
"""What `accelerate launch --config_file train/machines/fsdp2.yaml` tells each process."""


class WithoutGPU(Accelerator):
    """Shares a base among CPUs too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin()


if is_shared():
    fit.Accelerator = WithoutGPU

if __name__ == "__main__":
    sys.exit(main())
