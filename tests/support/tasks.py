"""Tasks of a user's own, on the digits: in half precision, with a personal head, with LoRA."""

from typing import Literal

import torch
from torch import nn

from ipfl_flower.tasks.base import Task, seeded
from ipfl_flower.tasks.digits import Digits
from ipfl_flower.tasks.images import SliceOptions

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class TypedOptions(SliceOptions):
    dtype: Literal["bfloat16", "float16", "float32", "mixed"]


class TypedDigits(Digits):
    """The MLP in one dtype, or with a float32 head on a bfloat16 body."""

    name = "typed"
    options_type = TypedOptions

    def build_model(self, seed):
        body, _, head = super().build_model(seed)
        mixed = self.options.dtype == "mixed"
        dtype = torch.bfloat16 if mixed else DTYPES[self.options.dtype]
        head = head if mixed else head.to(dtype)
        return nn.Sequential(body.to(dtype), nn.ReLU(), _Cast(head.weight.dtype), head)

    def inputs(self, images):
        mixed = self.options.dtype == "mixed"
        return super().inputs(images).to(torch.bfloat16 if mixed else DTYPES[self.options.dtype])

    def loss(self, outputs, labels):
        return super().loss(outputs.float(), labels)


class _Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, values):
        return values.to(self.dtype)


class PersonalHead(Digits):
    """The MLP with a batch norm, whose last layer and running statistics stay."""

    name = "personal"

    def build_model(self, seed):
        body, relu, head = super().build_model(seed)
        return nn.Sequential(body, nn.BatchNorm1d(64), relu, head)

    def shareable(self, model):
        return [*(f"0.{n}" for n, _ in model[0].named_parameters()), "1.weight", "1.bias"]


class Lora(nn.Module):
    """W x + b + B A x with W and b frozen: Hu et al., "LoRA", ICLR 2022, eq. 3."""

    def __init__(self, base, rank):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, values):
        return self.base(values) + values @ self.A.T @ self.B.T


class LoraDigits(Digits):
    """Adapters of rank 4 on a frozen MLP; the adapters alone are shared."""

    name = "lora"

    def build_model(self, seed):
        body, relu, head = super().build_model(0)
        with seeded(seed):
            return nn.Sequential(Lora(body, 4), relu, Lora(head, 4))

    def shareable(self, model):
        return [name for name, p in model.named_parameters() if p.requires_grad]


class Shares(Digits):
    """Shares what it is told to; with a tied pair of layers and an integer buffer."""

    names: tuple[str, ...] = ()

    def build_model(self, seed):
        model = super().build_model(seed)
        model.add_module("tied", nn.Linear(64, 10))
        model.tied.weight = model[2].weight
        model.register_buffer("count", torch.tensor(0))
        return model

    def shareable(self, model):
        return self.names


class Unfinished(Task):
    """Lacks most of what a task has."""

    def data(self):
        raise NotImplementedError


class Plain(Digits):
    """Takes its options as arguments."""

    from_options = classmethod(Task.from_options.__func__)

    def __init__(self, seed):
        self.seed = seed


def not_a_class():
    """Return nothing."""
