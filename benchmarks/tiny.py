"""A model small enough to read a hundred thousand rows in minutes: random weights, a real tokenizer of few tokens.

It knows nothing. What it is for is memory: the libraries, the code and the tables are those of any model.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import made

VOCABULARY = 400
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(folder: Path) -> Path:
    """A Llama of two layers whose byte-level tokenizer was learnt on made rows; made unless it is there."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [turn["content"] for row in made.conversations(1000) for turn in row["messages"]]
    learnt.train_from_iterator([*texts, "user assistant"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learnt, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=_TEMPLATE
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
