"""Worker processes give what this process gives, and their failures name the sentence."""

import os
import pickle
import signal
import time

import pytest
import reward_measures
from reward_cases import dictionary_of, outputs_of, reward_of, task_of
from torch.utils.data import DataLoader

from fairseq_plugins.rewards.text_rewards import chrf
from fairseq_plugins.rewards.worker_pool import WorkerPool

HYPOTHESES = ["a b", "b", "a b", "c c c", "", "b a c", "b"]
REFERENCES = ["a b", "a", "a b", "c", "a", "a b c", "c"]


@pytest.fixture(scope="module")
def pool():
    """One pool, as starting a process takes seconds; each test measures something else."""
    pool = WorkerPool(reward_measures.lengths, workers=1, name="--reward mine")
    yield pool
    pool.close()


def measuring(pool: WorkerPool, measure) -> WorkerPool:
    pool._measure = measure
    return pool


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_dies_is_reported_with_the_sentence_and_replaced(pool):
    with pytest.raises(
        RuntimeError,
        match=r"--reward mine: a worker process died .*hypothesis 'a fatal one', reference 'b'; "
        "--reward-workers 0",
    ):
        measuring(pool, reward_measures.dies_at_fatal)(["a fatal one"], ["b"])
    assert pool(["a", "bc"], ["", "b"]) == [[1, 0], [2, 1]]


def test_workers_give_what_this_process_gives_in_the_same_order(pool):
    alone = WorkerPool(chrf, workers=0, name="--reward chrf")
    assert measuring(pool, chrf)(HYPOTHESES, REFERENCES) == alone(HYPOTHESES, REFERENCES)
    (measured,) = measuring(pool, reward_measures.process_id)(["a"], ["b"])
    assert measured != [os.getpid()]


def test_an_exception_in_a_worker_has_the_sentence_and_leaves_the_pool_usable(pool):
    many = [f"sentence {number}" for number in range(20)]
    with pytest.raises(
        RuntimeError,
        match="--reward mine failed: KeyError: 'no entry'; at hypothesis 'an odd one', "
        "reference 'sentence 3'",
    ):
        measuring(pool, reward_measures.fails_at_odd)([*many[:3], "an odd one", *many[4:]], many)
    assert pool(["a"], ["bc"]) == [[1, 2]]


def test_a_data_loader_that_forks_works_beside_the_workers(pool):
    measuring(pool, reward_measures.lengths)
    for _ in range(2):
        loader = DataLoader(
            list(range(6)),
            batch_size=2,
            num_workers=1,
            multiprocessing_context="fork",
            timeout=60,
        )
        for batch in loader:
            texts = ["x" * number for number in batch.tolist()]
            assert pool(texts, texts) == [[len(text)] * 2 for text in texts]


def test_closing_ends_the_processes(pool):
    ((process,),) = measuring(pool, reward_measures.process_id)(["a"], ["b"])
    # Ctrl-C at the terminal reaches every process, but is the training process' to handle.
    os.kill(int(process), signal.SIGINT)
    assert pool(["c"], ["d"]) == [[process]]
    pool.close()
    deadline = time.monotonic() + 30
    while is_running(int(process)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(process))


def test_a_pipe_without_reader_does_not_end_the_training(pool):
    """A worker may die while its next sentences are written; sacrebleu changes what happens."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as importing sacrebleu does
    measuring(pool, reward_measures.lengths)(["a"], ["b"])
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        pipe.write(b"sentences")


def test_equal_pairs_are_measured_once():
    asked = []

    def measure(hypothesis: str, reference: str) -> list[float]:
        asked.append((hypothesis, reference))
        return [float(len(asked))]

    measured = WorkerPool(measure, workers=0, name="--reward mine")(HYPOTHESES, REFERENCES)
    assert asked == list(dict.fromkeys(zip(HYPOTHESES, REFERENCES, strict=True)))
    assert measured == [[1], [2], [1], [3], [4], [5], [6]]


def test_an_exception_in_this_process_has_the_sentence_too():
    alone = WorkerPool(reward_measures.fails_at_odd, workers=0, name="--reward mine")
    with pytest.raises(RuntimeError, match=r"at hypothesis 'odd x{196}\.\.\.', reference 'r'"):
        alone(["odd " + "x" * 1000], ["r"])


def test_a_reward_can_be_pickled():
    words = dictionary_of("a", "b")
    outputs = outputs_of(["a b", "b"], ["a b"], words)
    scored = reward_of("sentence_bleu", "text", task_of(words))
    assert pickle.loads(pickle.dumps(scored))(outputs).equal(scored(outputs))
