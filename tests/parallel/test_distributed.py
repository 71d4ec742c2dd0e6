"""Who a process is, as Slurm, Open MPI, Kubernetes and plain addresses tell it."""

import pytest

from livetalk_jax.parallel.distributed import World, find_world

SRUN = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}  # fmt: skip
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}  # fmt: skip
ADDRESSED = {"LIVETALK_COORDINATOR": "10.0.0.1:1234", "LIVETALK_PROCESSES": "4"}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, None),
        ({"HOSTNAME": "box-1"}, None),
        ({"LIVETALK_PROCESSES": "1"}, None),
        ({**ADDRESSED, "LIVETALK_PROCESS": "3"}, World("10.0.0.1:1234", 4, 3, None)),
        (SRUN, World(None, 2, 1, None)),
        ({**SRUN, "SLURM_NTASKS": "16", "SLURM_LOCALID": "5", "SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, World(None, 16, 1, 5)),
        # One GPU a task, and only that one to be seen.
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "CUDA_VISIBLE_DEVICES": "5"}, World(None, 2, 1, None)),
        # A shell inside an allocation is not a step of it.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),
        (MPIRUN, World(None, 8, 3, 3)),
        ({**ADDRESSED, "JOB_COMPLETION_INDEX": "2", "HOSTNAME": "livetalk-2-abcde"}, World("10.0.0.1:1234", 4, 2, None)),
        ({**ADDRESSED, "HOSTNAME": "livetalk-1"}, World("10.0.0.1:1234", 4, 1, None)),
    ],
    ids=[
        "alone", "alone, numbered host", "one process", "addresses", "srun, a task a host", "srun, a task a GPU",
        "srun, bound GPUs", "salloc", "mpirun", "indexed job", "stateful set",
    ],
)  # fmt: skip
def test_world(environment, world):
    assert find_world(environment) == world


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"LIVETALK_COORDINATOR": "a:1"}, "LIVETALK_PROCESSES is not"),
        ({"LIVETALK_PROCESSES": "2", "LIVETALK_PROCESS": "0"}, "2 processes need LIVETALK_COORDINATOR=host:port"),
        (ADDRESSED, r"which is this\? Set LIVETALK_PROCESS to 0 … 3"),
        ({**ADDRESSED, "LIVETALK_PROCESS": "4"}, "process 4 of 4, but they are counted from 0"),
        ({**ADDRESSED, "LIVETALK_PROCESS": "one"}, "LIVETALK_PROCESS must be a number, not 'one'"),
        ({key: value for key, value in MPIRUN.items() if "uri" not in key}, "8 processes need LIVETALK_COORDINATOR"),
    ],
)
def test_what_is_missing_is_said(environment, line):
    with pytest.raises(ValueError, match=line):
        find_world(environment)
