"""Train on several processes: torch's DistributedDataParallel around a net of FFTConv2d.

    torchrun --nproc-per-node=2 -m numba_fftconv.examples.train_ddp --check

The same program runs on CPUs (gloo) and on GPUs (NCCL, a process each). Rank r of R takes images r, r + R, ... of each
batch; R divides the batch, so that the mean over ranks of their mean gradients is the gradient of the whole batch, and
every process holds the weights w of one process that trains alone, but for the order of sums. `--check` has rank 0
train alone afterwards and compare: |w - w_alone| <= TOLERANCE |w_alone|, all parameters as one vector. In float64 that
is 1e-12. In float32 rounding now and then decides on which side of zero activations fall, and so which gradients ReLU
lets through: such a step is worth 6e-5, and 1e-4 is allowed for the few that are made.

Processes share a machine, and so its cores: each takes its part for Numba and for torch, unless NUMBA_NUM_THREADS says
otherwise. A rank that dies breaks the connections of the others, one that hangs lets their sums run into the timeout;
either way they fail with an error. Source: Li et al., PyTorch Distributed, VLDB 13 (2020), arXiv 2006.15704.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import numba
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel

from ..errors import FFTConvError
from ..torch import FFTConv2d
from .digits import Digits, batches, load
from .net import MOMENTUM, initial_weights
from .torch_net import network

BATCH = 48  # which many numbers of processes divide
RATE = 0.02
STEPS = 20
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}
WAYS_TO_DIE = ("kill", "raise", "hang")


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that torchrun has started, as their environment says."""

    rank: int
    ranks: int
    local_rank: int  # among those of this machine
    local_ranks: int

    @staticmethod
    def here() -> "Place":
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if any(name not in os.environ for name in names):
            command = "torchrun --nproc-per-node=2 -m numba_fftconv.examples.train_ddp"
            raise SystemExit(f"train_ddp: {', '.join(names)} are not all set: start it by {command}")
        return Place(*(int(os.environ[name]) for name in names))

    def device(self) -> torch.device:
        """A GPU of its own for each process of a machine that has any; else the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        count = torch.cuda.device_count()
        if self.local_ranks > count:
            raise SystemExit(f"train_ddp: {self.local_ranks} processes for {count} GPUs: start one for each GPU")
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def share_cores(self) -> None:
        """Before any thread is started, leave to each process of this machine its part of the cores."""
        share = max(1, numba.config.NUMBA_DEFAULT_NUM_THREADS // self.local_ranks)
        os.environ.setdefault("NUMBA_NUM_THREADS", str(share))
        numba.config.reload_config()
        torch.set_num_threads(share)


@dataclass(frozen=True)
class Death:
    """For tests: the step at which a rank dies, and how."""

    step: int | None
    rank: int
    way: str

    def at(self, step: int, rank: int) -> None:
        if (step, rank) == (self.step, self.rank):
            if self.way == "raise":
                raise RuntimeError(f"rank {rank} dies at step {step}, as it was told to")
            if self.way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)


def train(net: nn.Module, digits: Digits, device: torch.device, steps: int, place: Place, death: Death) -> float:
    """Train a net on this rank's part of each batch; the last loss of that part.

    Parameters
    ----------
    net : on `device`; one of DistributedDataParallel averages the gradients of all ranks.
    digits : all of them, on every rank.
    steps : batches to learn from.
    place : rank r of R takes images r, r + R, ... of a batch.
    """
    descent = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    epochs = -(-steps // (len(digits.labels) // BATCH))
    loss = torch.zeros(())
    for step, batch in enumerate(islice(batches(digits, BATCH, epochs), steps)):
        death.at(step, place.rank)
        images, labels = (torch.from_numpy(part[place.rank :: place.ranks].copy()).to(device) for part in batch)
        descent.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        descent.step()
    return loss.item()


def flat(net: nn.Module) -> torch.Tensor:
    """All parameters of a net in one vector."""
    return torch.cat([parameter.detach().ravel() for parameter in net.parameters()])


def spread(net: nn.Module) -> float:
    """How far the weights of the ranks lie apart: the largest difference of any, 0 if all have the same bits."""
    least, most = flat(net), flat(net)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return float((most - least).max())


@record  # hands the error of a process to torchrun, which prints it
def main(words: Sequence[str] | None = None) -> int:
    """Run one of the processes; its exit code: 0 if all that is demanded holds, 1 if not, 2 if it cannot run."""
    parser = argparse.ArgumentParser(
        prog="torchrun -m numba_fftconv.examples.train_ddp", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="float32", help="float64 runs on a CPU alone")
    parser.add_argument("--check", action="store_true", help="rank 0 trains alone too, and compares")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="that ranks wait for one another")
    parser.add_argument("--die-at-step", type=int, metavar="STEP", help="for tests: a rank dies at this step")
    parser.add_argument("--die-rank", type=int, default=1, metavar="RANK", help="for tests: the rank that dies")
    parser.add_argument("--die-by", choices=WAYS_TO_DIE, default="kill", help="for tests: how")
    chosen = parser.parse_args(words)
    place = Place.here()
    if BATCH % place.ranks:
        raise SystemExit(f"train_ddp: {place.ranks} processes do not divide a batch of {BATCH}: start 2, 3, 4, 6 or 8")
    place.share_cores()
    device = place.device()
    try:
        digits = load(chosen.dtype)
    except FFTConvError as error:
        print(f"train_ddp: {error}", file=sys.stderr)
        return 2

    def new() -> nn.Module:
        return network(FFTConv2d, initial_weights(0, chosen.dtype)).to(device)

    start = time.perf_counter()
    gloo_or_nccl = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(gloo_or_nccl, timeout=timedelta(seconds=chosen.timeout))
    # Every parameter takes part in every loss, so that none is looked for (find_unused_parameters is off).
    net = DistributedDataParallel(new(), device_ids=[place.local_rank] if device.type == "cuda" else None)
    death = Death(chosen.die_at_step, chosen.die_rank, chosen.die_by)
    loss = train(net, digits, device, chosen.steps, place, death)
    apart = spread(net)
    dist.destroy_process_group()
    if place.rank:
        return 0  # nothing more is to be done together
    seconds = time.perf_counter() - start
    print(f"{place.ranks} processes on {gloo_or_nccl}: {chosen.steps} steps in {seconds:.1f} s, loss {loss:.3f}")
    print(f"weights of the ranks: {apart:g} apart, 0 is wanted: {'PASS' if apart == 0 else 'FAIL'}")
    off, most = 0.0, TOLERANCE[chosen.dtype]
    if chosen.check:
        alone = new()
        train(alone, digits, device, chosen.steps, Place(0, 1, 0, 1), Death(None, 0, "kill"))
        off = float((flat(net) - flat(alone)).norm() / flat(alone).norm())
        print(
            f"weights of one process: {off:.1e} from those of {place.ranks}, {most:g} is allowed:"
            f" {'PASS' if off <= most else 'FAIL'}"
        )
    return 0 if apart == 0 and off <= most else 1


if __name__ == "__main__":
    sys.exit(main())
