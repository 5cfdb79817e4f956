"""One of several processes that share a training, over torch.distributed. Floor 2.

Imported by processes of such a training alone. Three kinds of message: plain results and failures
(`gather`, over gloo), the sum of the adapter's gradients (NCCL between GPUs, else gloo) and, once,
the adapter's values.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from orpo_qlora.errors import ConfigError, OrpoQloraError, OutOfMemory, WorkerLost, class_of
from orpo_qlora.models.devices.hardware import is_out_of_memory
from orpo_qlora.models.sharding import is_lost_connection
from orpo_qlora.orpo.processes.ranks import Ranks, assign

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = timedelta(hours=2)
"""Longest wait for the other processes, which may be answering samples or, on another machine,
downloading the base; those of one machine download it together. A process that has died is noticed
at once."""
MEETING = timedelta(minutes=15)
"""Longest wait for all processes to start."""
NO_GPU = "none"
_LEFT = "orpo-qlora/first-has-left"
LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    *("PMI_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
)
"""Removed once they are read: accelerate would wrap the model for a training that it shares out."""


class PeerLost(WorkerLost):
    """Another process of the training has ended; what this one does next is no longer shared."""


@dataclass(frozen=True)
class _Failure:
    """What went wrong on a rank, as the others learn of it."""

    rank: int
    message: str
    slug: str = ""
    """Of an error of ours."""
    hint: str = ""
    where: str = ""
    is_memory: bool = False

    def raised(self, size: int) -> Exception:
        """Return what the other ranks raise."""
        place = f"process {self.rank} of {size}"
        if self.is_memory:
            return MemoryError(f"memory ran out in {place}: {self.message}")
        if self.slug:
            where = ", ".join(filter(None, (self.where, place)))
            return class_of(self.slug)(self.message, hint=self.hint, where=where)
        return OrpoQloraError(
            f"Internal error in {place}: {self.message}",
            hint="The details are in log.txt; please report them.",
        )


class ProcessGroup(Ranks):
    """This process among those of a training.

    Args of the constructor: rank, number of ranks and of those on this machine, and the store that
    they have in common.
    """

    def __init__(self, rank: int, size: int, local_size: int, store: Any) -> None:  # noqa: ANN401
        self.rank, self.size, self.local_size = rank, size, local_size
        self._store = store
        self._parameters: list[Tensor] = []
        self._flat = torch.empty(0)
        self.is_agreed = False
        """Whether the latest exchange failed, so that every rank has raised its error."""
        self.peers: Callable[[], bool] = lambda: True
        """Whether the other processes of this machine are alive."""
        on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Join the processes that torchrun, or another launcher, has described in the environment.

        Raises:
            PeerLost: they did not meet.
            ConfigError: some have a GPU and some have none, or two have the same one.
        """
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        with _connected():
            store, rank, size = next(rendezvous("env://", timeout=MEETING))
            store.set_timeout(PATIENCE)
            shared = PrefixStore("orpo-qlora", store)
            refuse_mixed(shared, rank, size, _gpu(rank))
            group = cls(rank, size, local_size, shared)
        for name in LAUNCHER_VARIABLES:
            os.environ.pop(name, None)
        return group

    def parts(self, items: Sequence[Item], cost: Callable[[Item], int]) -> Sequence[Sequence[Item]]:
        """Return each rank's part of the items; see `Ranks`."""
        parts: list[list[Item]] = [[] for _ in range(self.size)]
        places = assign([cost(item) for item in items], self.size)
        for item, place in zip(items, places, strict=True):
            parts[place].append(item)
        return parts

    def gather(self, local: Callable[[], Result]) -> list[Result]:
        """Run `local` on every rank and return all results; see `Ranks`."""
        return self._exchange(local)

    def together(self, local: Callable[[], Result]) -> Result:
        """Return this rank's own result; see `Ranks`."""
        kept: list[Result] = []
        self._exchange(lambda: kept.append(local()))
        return kept[0]

    def first_then_others(self, local: Callable[[], Result]) -> Result:
        """Return this rank's own result; see `Ranks`."""
        kept: list[Result] = []
        self._exchange(lambda: kept.append(local()) if self.is_first else None)
        self._exchange(lambda: None if self.is_first else kept.append(local()))
        return kept[0]

    def in_turn(self, local: Callable[[], Result]) -> Result:
        """Return this rank's own result; see `Ranks`."""
        kept: list[Result] = []

        def take_turn(turn: int) -> None:
            if turn == self.rank % self.local_size:
                kept.append(local())

        for turn in range(max(self.gather(lambda: self.local_size))):
            self._exchange(partial(take_turn, turn))
        return kept[0]

    def from_first(self, local: Callable[[], Result]) -> Result:
        """Return what `local` gives on rank 0; see `Ranks`."""
        return self._exchange(local if self.is_first else lambda: None)[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return any(self._exchange(lambda: flag))

    def _exchange(self, local: Callable[[], Any]) -> list[Any]:
        error: Exception | None = None
        sent: dict[str, Any] = {}
        try:
            sent = {"result": local()}
        except PeerLost:
            raise
        except Exception as exc:  # noqa: BLE001 - raised again below, once the others know
            if self.shards_base:
                self._end_alone(exc)
            error, sent = exc, {"failure": asdict(self._failure(exc))}
        with _connected():
            received = _all_gather(sent, self.size)
        failures = [_Failure(**part["failure"]) for part in received if "failure" in part]
        if not failures:
            self.is_agreed = False
            return [part["result"] for part in received]
        self.is_agreed = True
        # Memory that ran out is tried again only where nothing else failed.
        first = min(failures, key=lambda failure: failure.is_memory)
        if error is not None and first.rank == self.rank:
            raise error
        raise first.raised(self.size) from error

    def _end_alone(self, error: Exception) -> NoReturn:
        """Raise an error on this rank: the others wait for it in a forward, and cannot answer."""
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"Memory ran out in process {self.rank} of {self.size}, which share every forward "
                "as the base is sharded; it cannot be repeated with fewer tokens.",
                hint="Resume the run: it continues with half the tokens per forward. A new run may "
                "set “Tokens per forward” (max_tokens_per_forward).",
            ) from error
        if is_lost_connection(error):
            with _connected():
                raise error
        raise error

    def _failure(self, error: Exception) -> _Failure:
        if isinstance(error, OrpoQloraError):
            card = (error.message, error.slug, error.hint, error.where)
            return _Failure(self.rank, *card)
        text = f"{type(error).__name__}: {error}"[:300]
        if is_out_of_memory(error):  # what `Budget` tries again
            return _Failure(self.rank, text, is_memory=True)
        log.exception("failed in process %d of %d", self.rank, self.size)
        return _Failure(self.rank, text)

    @property
    def is_intact(self) -> bool:
        """Whether all other ranks of this machine are alive; see `Ranks`."""
        return self.peers()

    def prepare(self, parameters: Sequence[Tensor]) -> None:
        """Reserve one flat tensor for the gradients and for which of them exist; see `Ranks`."""
        self._parameters = list(parameters)
        count = sum(parameter.numel() for parameter in parameters)
        wide = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32

        def reserve() -> None:
            device = parameters[0].device
            self._flat = torch.zeros(count + len(parameters), dtype=wide, device=device)

        self.gather(reserve)

    @torch.no_grad()
    def sum_gradients(self) -> None:
        """Add up the gradients in one message; see `Ranks`.

        A parameter without a gradient on any rank keeps none. The reduction gives every rank the
        same bits.
        """
        views = self._views()
        present = self._flat[-len(views) :]
        for at, (parameter, view) in enumerate(zip(self._parameters, views, strict=True)):
            present[at] = float(parameter.grad is not None)
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        with _connected():
            dist.all_reduce(self._flat)
        has_gradient = present.tolist()
        for parameter, view, count in zip(self._parameters, views, has_gradient, strict=True):
            if not count:
                continue
            if parameter.grad is not None:
                parameter.grad.copy_(view)
            elif parameter.dtype == view.dtype:
                parameter.grad = view  # until it is cleared after the step: no memory is taken
            else:
                parameter.grad = view.to(parameter.dtype)

    @torch.no_grad()
    def copy_first(self) -> None:
        """Send the values of rank 0 in one message; see `Ranks`."""
        views = self._views()
        for parameter, view in zip(self._parameters, views, strict=True):
            view.copy_(parameter)
        with _connected():
            dist.broadcast(self._flat, src=0)
        for parameter, view in zip(self._parameters, views, strict=True):
            parameter.copy_(view)

    def _views(self) -> list[Tensor]:
        """Return each parameter's part of the flat tensor, in its own shape."""
        sizes = [parameter.numel() for parameter in self._parameters]
        parts = self._flat[: sum(sizes)].split(sizes)
        return [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]

    def leave(self, patience_seconds: float) -> None:
        """Let rank 0 end first, once it has recorded how the run ended.

        A launcher ends all processes as soon as one has failed.
        """
        with suppress(RuntimeError):  # the store ends with rank 0
            if self.is_first:
                self._store.set(_LEFT, "1")
            else:
                self._store.wait([_LEFT], timedelta(seconds=patience_seconds))


def _gpu(rank: int) -> str:
    """Return the UUID of this process's GPU, `NO_GPU` without one."""
    if not torch.cuda.is_available():
        return NO_GPU
    # Some builds for ROCm do not have it: then nothing is compared.
    return str(getattr(torch.cuda.get_device_properties(0), "uuid", f"of process {rank}"))


def refuse_mixed(store: Any, rank: int, size: int, gpu: str) -> None:  # noqa: ANN401
    """Refuse processes between which NCCL cannot add up gradients.

    Args:
        store: that all ranks have in common.
        rank: of this process.
        size: number of processes.
        gpu: UUID of this process's GPU, `NO_GPU` without one.

    Raises:
        ConfigError: on every rank, naming those without a GPU, or two that have the same one.
    """
    store.set(f"gpu-{rank}", gpu)
    gpus = [store.get(f"gpu-{other}").decode() for other in range(size)]
    without = [str(other) for other, found in enumerate(gpus) if found == NO_GPU]
    if len(without) == size:
        return
    if without:
        raise ConfigError(
            f"Of {size} processes that share the run, some have no GPU: {', '.join(without)}.",
            hint="Start at most one process for each GPU of a machine (docs/scale.md).",
        )
    same = next(filter(lambda found: gpus.count(found) > 1, gpus), None)
    if same is not None:
        ranks = ", ".join(str(other) for other, found in enumerate(gpus) if found == same)
        raise ConfigError(
            f"Processes {ranks} of {size} have the same GPU, {same}; each needs one of its own.",
            hint="Start at most one process for each GPU of a machine. CUDA_VISIBLE_DEVICES "
            "lists all GPUs of the machine, or is set by the launcher to another GPU for each "
            "process (docs/scale.md).",
        )


def _all_gather(data: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """Send data to every rank and return that of all.

    As JSON: torch's own function for objects unpickles, and so runs, whatever arrives.
    """
    text = torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(text)]))
    longest = max(int(length) for length in lengths)
    sent = torch.zeros(longest, dtype=torch.uint8)
    sent[: len(text)] = text
    received = [torch.empty_like(sent) for _ in range(size)]
    dist.all_gather(received, sent)
    texts = [part[: int(n)].numpy().tobytes() for part, n in zip(received, lengths, strict=True)]
    return [json.loads(text) for text in texts]


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        if not is_lost_connection(exc):
            raise
        reason = str(exc).partition(". ")[0]
        raise PeerLost(
            f"The connection to another process of this run was lost ({reason}).",
            hint="Resume the run; the log says more.",
        ) from exc
