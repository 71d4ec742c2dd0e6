"""Several processes as one run: who they are, read from the environment that started them, and the connection between them.

    srun                      Slurm's variables; one task a host, or one a GPU
    mpirun                    Open MPI's variables
    Kubernetes                an indexed Job (JOB_COMPLETION_INDEX) or a StatefulSet (the number at the end of HOSTNAME), with
                              LIVETALK_COORDINATOR and LIVETALK_PROCESSES
    anything else             LIVETALK_COORDINATOR=host:port LIVETALK_PROCESSES=2 LIVETALK_PROCESS=0

LIVETALK_* hold wherever they are set; Slurm, and Open MPI before version 5, know the coordinator by themselves.
"""

import logging
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax

logger = logging.getLogger(__name__)


class World(NamedTuple):
    """One process among others.

    Attributes:
        coordinator: host:port of process 0; None where JAX finds it by itself.
        processes, process: how many there are, and which one this is.
        device: the only one of the host's GPUs that this process uses; None: all that it sees.
    """

    coordinator: str | None
    processes: int
    process: int
    device: int | None


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        if name in environment:
            if not environment[name].isdecimal():
                raise ValueError(f"{name} must be a number, not {environment[name]!r}")
            return int(environment[name])
    return None


def find_world(environment: Mapping[str, str]) -> World | None:
    """What the environment says; None for a single process.

    Raises:
        ValueError: it says too little, or something that cannot be.
    """
    coordinator = environment.get("LIVETALK_COORDINATOR")
    processes = _number(environment, "LIVETALK_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    # `srun` sets a step's variables; a shell inside an allocation has SLURM_NTASKS too, but is one process.
    inside_step = "SLURM_STEP_NODELIST" in environment or "SLURM_NTASKS" not in environment
    if processes in (None, 1) or not (inside_step or coordinator):
        if coordinator and processes is None:
            raise ValueError("LIVETALK_COORDINATOR is set, but LIVETALK_PROCESSES is not: say how many processes there are")
        return None
    process = _number(environment, "LIVETALK_PROCESS", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
    if process is None and (ordinal := re.search(r"-(\d+)$", environment.get("HOSTNAME", ""))):
        process = int(ordinal[1])
    if process is None:
        raise ValueError(f"there are {processes} processes, but which is this? Set LIVETALK_PROCESS to 0 … {processes - 1}")
    if process >= processes:
        raise ValueError(f"this is process {process} of {processes}, but they are counted from 0")
    knows_itself = "SLURM_STEP_NODELIST" in environment or "OMPI_MCA_orte_hnp_uri" in environment
    if coordinator is None and not knows_itself:
        raise ValueError(f"{processes} processes need LIVETALK_COORDINATOR=host:port, an address of process 0 that all can reach")
    return World(coordinator, processes, process, _own_device(environment))


def _own_device(environment: Mapping[str, str]) -> int | None:
    """With several processes on a host each takes the GPU of its place there, unless it was given only one to see."""
    neighbours = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
    if neighbours is None and (tasks := re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))):
        neighbours = int(tasks[0])
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if neighbours in (None, 1) or (visible and "," not in visible):
        return None
    return _number(environment, "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Connect this process with the others of the run, if there are any; before anything else that touches a device.

    Raises:
        ValueError: the environment says too little.
    """
    world = find_world(environment)
    if world is None or jax.distributed.is_initialized():
        return
    logger.info("process %d of %d", world.process, world.processes)
    jax.distributed.initialize(
        world.coordinator,
        world.processes,
        world.process,
        local_device_ids=world.device,
        cluster_detection_method=None if world.coordinator is None else "deactivate",
    )
