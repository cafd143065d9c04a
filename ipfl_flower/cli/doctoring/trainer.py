"""What an institution's trainer says of itself, against the kit and the institution.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ipfl_flower.cli.doctoring.files import Room
from ipfl_flower.cli.doctoring.finding import Verdict, fail, ok, warn
from ipfl_flower.cli.doctoring.layout import Tensor, layout_line, model_bytes
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.kit import Kit
from ipfl_flower.cli.versions import check_versions, own_versions
from ipfl_flower.trainer_api import Description, Tls, TrainerClient
from ipfl_flower.trainer_api.speaker import PROTOCOL

PATIENCE_S = 2.0
DESCRIBE_S = 20.0
# Trained, best, θ⁰, and two that are being written (trainer/store.py).
MODELS_KEPT = 5


@dataclass(frozen=True)
class InstitutionFile:
    """What the doctor needs of an institution.toml; the trainer checks the rest.

    Attributes
    ----------
    state_dir : Path
    device : str
    operator_key : str or None
    """

    state_dir: Path
    device: str
    operator_key: str | None

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read it, without torch.

        Raises
        ------
        KitError
            It can't be read, or names no state_dir.
        """
        try:
            values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise KitError(f"{file} can't be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise KitError(f"{file} is not a TOML file: {error}") from error
        state_dir = values.get("state_dir")
        if not isinstance(state_dir, str) or not state_dir:
            raise KitError(f'{file} names no state_dir: add state_dir = "state"')
        key = values.get("operator_key")
        return cls(
            state_dir=file.resolve().parent / state_dir,
            device=str(values.get("device", "auto")),
            operator_key=None if key is None else str(key),
        )


def describe(address: str, tls: Tls | None) -> Description:
    """Ask the trainer what it is.

    Raises
    ------
    TrainerApiError
        It doesn't answer, or says why not.
    """
    with TrainerClient(address, tls, patience_s=PATIENCE_S) as client:
        return client.describe(deadline_s=DESCRIBE_S)


def trainer_versions(trainer: Description) -> Verdict:
    """Compare the trainer's versions with those installed here, beside the SuperNode.

    Raises
    ------
    KitError
        They don't work together.
    """
    theirs = trainer.versions
    # The trainer has no Flower.
    check_versions(
        {**own_versions(), "ipfl-flower": theirs.get("ipfl-flower", "missing")}, "the trainer"
    )
    return ok(
        f"the trainer has ipfl-flower {theirs['ipfl-flower']}, torch {theirs.get('torch')}, "
        f"protocol {PROTOCOL}"
    )


def trainer_fits(trainer: Description, kit: Kit) -> Verdict:
    """Compare who the trainer is, what it trains and what it reports with the market's terms."""
    task, most = kit.terms.get("task"), kit.terms.get("samples-max")
    if trainer.name != kit.name:
        return fail(
            f"the trainer is {trainer.name}, and the kit is for {kit.name}: "
            "correct name in institution.toml, or --trainer"
        )
    if task and trainer.task != task:
        return fail(
            f"the trainer has the task {trainer.task}, and the market trains {task}: "
            "correct [task] in institution.toml"
        )
    if isinstance(most, int) and trainer.terms.samples > most:
        return fail(
            f"the trainer reports {trainer.terms.samples} samples, and the market takes at most "
            f"{most}: set samples in [terms] of institution.toml"
        )
    if trainer.leaving:
        return warn("leaving = true in institution.toml: it takes no part in the market")
    return ok(f"{trainer.name}, task {trainer.task}, {trainer.terms.samples} samples")


def device_used(trainer: Description, file: InstitutionFile | None) -> Verdict:
    """Tell what the trainer computes on."""
    if trainer.device != "cpu":
        return ok(f"the trainer uses the GPU ({trainer.device})")
    if file is not None and file.device == "auto":
        return warn(
            "the trainer found no GPU and uses the CPU: if it has one, give it the driver (and, in "
            'a container, the device); otherwise device = "cpu" in institution.toml'
        )
    return ok("the trainer uses the CPU")


def layout_known(trainer: Description) -> Verdict:
    """Say what model the trainer takes; the operator's doctor says the same of θ⁰."""
    return ok(f"{layout_line(tensors(trainer))}: the operator's doctor must show the same layout")


def tensors(trainer: Description) -> list[Tensor]:
    """List the tensors of the trainer's model."""
    return [(name, spec.dtype, spec.shape) for name, spec in trainer.layout.items()]


def operator_key_pinned(file: InstitutionFile, kit: Kit) -> Verdict:
    """Tell whether the trainer checks receipts with the key that signed the kit."""
    if file.operator_key is None:
        return warn(
            "institution.toml pins no operator key, so the first receipt decides: add "
            f'operator_key = "{kit.operator_key}"'
        )
    if file.operator_key != kit.operator_key:
        return fail(
            f"institution.toml pins the operator key {file.operator_key}, and the kit is signed by "
            f"{kit.operator_key}: ask the operator by telephone which is right"
        )
    return ok("institution.toml pins the key that signed the kit")


def trainer_rooms(file: InstitutionFile, trainer: Description) -> list[Room]:
    """List what a round writes."""
    return [Room(file.state_dir, MODELS_KEPT * model_bytes(tensors(trainer)))]
