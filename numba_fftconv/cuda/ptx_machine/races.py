"""Races on shared memory: two threads touch one word, one of them writes, and no barrier stands between.

Between two barriers threads run in any order, so such a pair has no defined result, whatever order it was seen to run
in. For each word of 4 bytes it is enough to keep its last writer and its last reader since a barrier:

    write   races with a write, and with a reading, of another thread since the last barrier
    read    races with a write of another thread since the last barrier

A cp.async writes at some time between its instruction and the wait that covers it. Until then nobody may touch the
word, its own thread included; at the wait it becomes a write of that thread, which others see after the next barrier.

Example: threads 0 and 1 store to words 0 and 1; if thread 0 then loads word 1, that is a race, with a barrier before
the load it is none.
"""

from typing import NoReturn

import numpy as np

from ...integers import ceil_div
from .program import Instruction, MachineError

WORD = 4  # bytes
NOBODY, SEVERAL = -1, -2  # in the place of a thread


class RaceError(MachineError):
    """Two threads, one word, no barrier; the message has both lines."""


class _Last:
    """Of each word the last access of one sort: its thread, the barriers before it, its instruction by number."""

    def __init__(self, words: int) -> None:
        self.thread = np.full(words, NOBODY, np.int32)
        self.barriers = np.full(words, -1, np.int32)
        self.instruction = np.zeros(words, np.int32)


class Races:
    """What is known of the words of a block's shared memory; methods take the first byte of each thread's access."""

    def __init__(self, nbytes: int) -> None:
        words = ceil_div(nbytes, WORD)
        self.barriers = 0
        self.instructions: list[Instruction] = []
        self.numbers: dict[Instruction, int] = {}
        self.written, self.read_, self.copied_into = _Last(words), _Last(words), _Last(words)

    def barrier(self) -> None:
        """All threads have met."""
        self.barriers += 1

    def read(self, instruction: Instruction, byte: np.ndarray, size: int, thread: np.ndarray) -> None:
        word, thread = _words(byte, size, thread)
        self._refuse_copies(instruction, word, thread)
        self._refuse(self.written, instruction, word, thread)
        last = self.read_
        others = (last.barriers[word] == self.barriers) & (last.thread[word] != thread)
        self._note(last, instruction, word, thread)
        last.thread[word[others | (last.thread[word] != thread)]] = SEVERAL

    def write(self, instruction: Instruction, byte: np.ndarray, size: int, thread: np.ndarray) -> None:
        word, thread = _words(byte, size, thread)
        self._refuse_before_write(instruction, word, thread)
        self._note(self.written, instruction, word, thread)
        self._refuse(self.written, instruction, word, thread)  # of two that write in one step the last was noted

    def copy(self, instruction: Instruction, byte: np.ndarray, size: int, thread: np.ndarray) -> None:
        """A cp.async begins."""
        word, thread = _words(byte, size, thread)
        self._refuse_before_write(instruction, word, thread)
        self._note(self.copied_into, instruction, word, thread)
        self._refuse(self.copied_into, instruction, word, thread)

    def arrive(self, instruction: Instruction, byte: np.ndarray, size: int, thread: np.ndarray) -> None:
        """What a cp.async brought has been waited for."""
        word, thread = _words(byte, size, thread)
        self.copied_into.thread[word] = NOBODY
        self._note(self.written, instruction, word, thread)

    def _note(self, last: _Last, instruction: Instruction, word: np.ndarray, thread: np.ndarray) -> None:
        number = self.numbers.setdefault(instruction, len(self.instructions))
        if number == len(self.instructions):
            self.instructions.append(instruction)
        last.thread[word], last.barriers[word], last.instruction[word] = thread, self.barriers, number

    def _refuse_before_write(self, instruction: Instruction, word: np.ndarray, thread: np.ndarray) -> None:
        self._refuse_copies(instruction, word, thread)
        self._refuse(self.written, instruction, word, thread)
        self._refuse(self.read_, instruction, word, thread)

    def _refuse(self, last: _Last, instruction: Instruction, word: np.ndarray, thread: np.ndarray) -> None:
        met = (last.barriers[word] == self.barriers) & (last.thread[word] != thread)
        if met.any():
            self._fail(last, instruction, word[met][0], thread[met][0], "no barrier between")

    def _refuse_copies(self, instruction: Instruction, word: np.ndarray, thread: np.ndarray) -> None:
        met = self.copied_into.thread[word] != NOBODY
        if met.any():
            self._fail(self.copied_into, instruction, word[met][0], thread[met][0], "no wait between")

    def _fail(self, last: _Last, instruction: Instruction, word: int, thread: int, missing: str) -> NoReturn:
        first = last.thread[word]
        who = "several threads" if first == SEVERAL else f"thread {first}"
        before = self.instructions[last.instruction[word]]
        raise RaceError(
            f"a race on the word at byte {word * WORD} of shared memory, {missing}:"
            f" {who} at {before}, and thread {thread} at {instruction}"
        )


def _words(byte: np.ndarray, size: int, thread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words that accesses touch, and the thread of each."""
    each = np.arange(ceil_div(size, WORD))
    return (byte[:, None] // WORD + each).reshape(-1), np.repeat(thread, len(each))
