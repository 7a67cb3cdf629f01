"""Kinds of data-parallel training in which a criterion would compute something else are refused."""

from dataclasses import dataclass

from fairseq.dataclass import FairseqDataclass
from omegaconf import II

_INSTEAD = (
    "use --ddp-backend legacy_ddp or pytorch_ddp; --zero-sharding os and --memory-efficient-fp16 "
    "save memory with both"
)


@dataclass
class ParallelTrainingConfig(FairseqDataclass):
    """What a criterion's flags take over from fairseq's own."""

    ddp_backend: str = II("distributed_training.ddp_backend")
    use_bmuf: bool = II("optimization.use_bmuf")


def check_parallel_training(cfg: ParallelTrainingConfig, criterion: str, *, decodes: bool) -> None:
    """Raise ``ValueError``, which names the flag and another, where ``criterion`` would be wrong.

    Args:
        cfg: of the criterion.
        criterion: value of ``--criterion``.
        decodes: whether it calls parts of the model by themselves, as decoding does.
    """
    backend = str(cfg.ddp_backend)
    if backend == "fully_sharded" and decodes:
        raise ValueError(
            f"--ddp-backend fully_sharded does not go with --criterion {criterion} where outputs "
            "are decoded: parts of the model are called by themselves, and each worker has only "
            f"its share of their parameters; {_INSTEAD}"
        )
    for flag, apart in (
        ("--ddp-backend slowmo", backend == "slowmo"),
        ("--use-bmuf", cfg.use_bmuf is True),
    ):
        if apart:
            raise ValueError(
                f"{flag} does not go with --criterion {criterion}: workers train apart for some "
                "updates, and the sums over workers that the criterion takes in every batch would "
                f"be of different models; {_INSTEAD}"
            )
