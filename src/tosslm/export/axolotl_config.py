"""Axolotl's config, which differs only in how it is told to read the rows."""

from __future__ import annotations

_YAML = """# axolotl preprocess axolotl.yaml --debug   shows the labels in colour
# axolotl train axolotl.yaml
base_model: @MERGED@
datasets:
{rows}
sequence_len: @LONGEST@  # longer rows would be left out
sample_packing: false
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
micro_batch_size: 4
gradient_accumulation_steps: 1
num_epochs: 1
learning_rate: 0.0001
output_dir: ./trained
"""


def axolotl_yaml(rows: str) -> str:
    """The config as a snippet.

    Args:
        rows: the one entry of ``datasets``, indented, and further keys after it.
    """
    return _YAML.format(rows=rows.strip("\n"))
