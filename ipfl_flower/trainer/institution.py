"""The institution.toml: who the institution is, its terms and limits, how it trains, its task."""

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ipfl_flower.market import Terms, TermsError
from ipfl_flower.tasks import Task, TaskError, load_task
from ipfl_flower.tasks.errors import one_line
from ipfl_flower.trainer.errors import InstitutionError
from ipfl_flower.trainer.limits import NO_LIMITS, Limits
from ipfl_flower.trainer.proximal import OPTIMISERS, Optimiser


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Terms(_Table):
    """[terms] as in mechanism.md §1; ``samples`` is the size of the training data by default."""

    samples: int | None = Field(default=None, ge=0)
    cost: float = Field(ge=0)
    eagerness: float = Field(ge=0, allow_inf_nan=False)
    budget: float = Field(default=float("inf"), ge=0)


_Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class _Training(_Table):
    """[training]: see :class:`Sgd` and :class:`AdamW`, which know what is left out."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    iterations: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    momentum: _Share | None = None
    betas: tuple[_Share, _Share] | None = Field(default=None, strict=False)  # TOML has arrays
    # In float32 a smaller one is 0, and an element without a gradient 0/0.
    epsilon: float | None = Field(default=None, ge=1e-30, allow_inf_nan=False)
    weight_decay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    threads: int = Field(default=1, ge=1)

    @field_validator("momentum", "betas", "epsilon")
    @classmethod
    def _of_the_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        having = [
            name
            for name, kind in OPTIMISERS.items()
            if info.field_name in {field.name for field in fields(kind)}
        ]
        given = info.data.get("optimizer", having[0])  # one that isn't known is named by itself
        if given not in having:
            raise ValueError(
                f'optimizer "{given}" has no such setting: remove it, or set '
                f'optimizer = "{having[0]}"'
            )
        return value

    @model_validator(mode="after")
    def _one_length(self) -> "_Training":
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("give either iterations (steps a round) or epochs")
        return self

    def optimiser(self) -> Optimiser:
        given = self.model_dump(exclude={"optimizer", "threads"}, exclude_unset=True)
        return OPTIMISERS[self.optimizer](**given)


class _Task(BaseModel):
    """[task]: its name; the rest is the task's to check."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str


class _File(_Table):
    name: str = Field(min_length=1, max_length=64)
    state_dir: str = Field(min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    leaving: bool = False
    operator_key: str | None = None
    on_alarm: Literal["continue", "stop"] = "continue"
    terms: _Terms
    training: _Training
    task: _Task
    limits: Limits = NO_LIMITS

    @field_validator("operator_key")
    @classmethod
    def _is_a_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError(
                f"give the operator's public key, 64 hexadecimal digits, not {value!r}"
            )
        return value


@dataclass(frozen=True)
class Institution:
    """One institution, checked.

    Attributes
    ----------
    name
        What it is called in messages and in its state.
    state_dir
        Folder of its models and state; its own alone.
    device
        "cpu" or "cuda".
    threads
        CPU threads that torch may use.
    leaving
        Whether it leaves the market: it says so with its next reply.
    terms
        What it reports to the market, within its limits.
    sgd
        How it trains in a round, with SGD or AdamW.
    task
        Its data and model.
    operator_key
        The public key that signs its receipts, 64 hexadecimal digits; None: that of the first one.
    on_alarm
        Whether it goes on when a receipt doesn't fit.
    limits
        What no message can make it do.
    """

    name: str
    state_dir: Path
    device: Literal["cpu", "cuda"]
    threads: int
    leaving: bool
    terms: Terms
    sgd: Optimiser
    task: Task
    operator_key: str | None = None
    on_alarm: Literal["continue", "stop"] = "continue"
    limits: Limits = NO_LIMITS

    @classmethod
    def load(cls, path: Path) -> "Institution":
        """Read an institution.toml, and the data if [terms] leaves ``samples`` out.

        Parameters
        ----------
        path
            The file. A relative ``state_dir`` in it is relative to its folder.

        Raises
        ------
        InstitutionError
            Names the file, each setting at fault, what it must be and what it is.
        TaskDataError
            The task's data is missing or damaged.
        """
        try:
            file = _File(**tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InstitutionError(f"{path} can't be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InstitutionError(f"{path} is not a TOML file: {error}") from error
        except ValidationError as error:
            raise InstitutionError(f"{path}: {one_line(error)}") from error
        try:
            task = load_task(**file.task.model_dump())
            samples = file.terms.samples
            if samples is None:
                samples = len(task.data().train)
            terms = Terms(**file.terms.model_dump(exclude={"samples"}), samples=samples)
        except TaskError as error:
            raise InstitutionError(f"{path}: {error}") from error
        except TermsError as error:
            raise InstitutionError(f"{path}: terms.{error}") from error
        return cls(
            name=file.name,
            state_dir=path.resolve().parent / file.state_dir,
            device=_device(file.device, path),
            threads=file.training.threads,
            leaving=file.leaving,
            terms=file.limits.cap(terms),
            sgd=file.training.optimiser(),
            task=task,
            operator_key=file.operator_key,
            on_alarm=file.on_alarm,
            limits=file.limits,
        )


def _device(wanted: Literal["auto", "cpu", "cuda"], path: Path) -> Literal["cpu", "cuda"]:
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise InstitutionError(
            f'{path}: device is "cuda", but torch finds no GPU: set "cpu" or "auto"'
        )
    return "cpu"
