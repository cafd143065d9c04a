"""A causal language model of some thousand random weights, in a folder of Hugging Face's form."""

import torch

WORDS = ["yes", "no", "?", "Answer", ":", *(f"w{number}" for number in range(40))]


def save_tiny_llama(folder):
    """Write model and tokenizer; the tests' own words are its vocabulary."""
    import tokenizers  # noqa: PLC0415  # optional
    import transformers  # noqa: PLC0415

    vocabulary = {word: code for code, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
