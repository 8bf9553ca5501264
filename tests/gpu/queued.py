"""A device whose queues run when and in what order they like: only marks that are followed or waited for bind them."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager

import numpy as np

from gpu.backend import POISON, Runner


class Spoiling:
    """What is done with memory that was given back."""

    def __init__(self, memory):
        self._memory = memory

    def __call__(self):
        self._memory.fill(POISON)


class Queued(Runner):
    """`Backend`. Work is done as late as can be, or now and then some of it, of any queue whose head may run."""

    def __init__(self, length, seed):
        super().__init__(length)
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._queues = [[]]
        self._done = [0]  # by queue: of all that it was ever asked for
        self._current = threading.local()
        self._helpers = []
        self.late = None  # a queue, or several, that do nothing until something waits for them

    def new_queue(self):
        with self._lock:
            self._queues.append([])
            self._done.append(0)
            return len(self._queues) - 1

    def helpers(self, count):
        with self._lock:
            while len(self._helpers) < count:
                self._helpers.append(self.new_queue())
            return self._helpers[:count]

    @contextmanager
    def using(self, queue):
        before, self._current.queue = getattr(self._current, "queue", 0), queue
        try:
            yield
        finally:
            self._current.queue = before

    def ask(self, work, mark=None):
        """Put work into this thread's queue; it may run once the mark, of another queue, is reached."""
        with self._lock:
            self._queues[getattr(self._current, "queue", 0)].append((work, mark))
            for _ in range(self._random.choice((0, 0, 0, 1, 5))):
                self._step()

    def _reached(self, mark):
        return mark is None or self._done[mark[0]] >= mark[1]

    def _step(self):
        """Run one piece of work, of any queue; False if none may run."""
        late = self.late if isinstance(self.late, tuple) else (self.late,)
        able = [i for i, queue in enumerate(self._queues) if queue and self._reached(queue[0][1]) and i not in late]
        if not able:
            return False
        chosen = self._random.choice(able)
        work, _mark = self._queues[chosen].pop(0)
        work()
        self._done[chosen] += 1
        return True

    def mark(self):
        with self._lock:
            queue = getattr(self._current, "queue", 0)
            return queue, self._done[queue] + len(self._queues[queue])

    def wait(self, mark):
        with self._lock:
            while not self._reached(mark):
                self._need(mark)

    def _need(self, mark):
        """Run the head of a queue, or what it waits for: nothing else, which would hide that it was not waited for."""
        work, before = self._queues[mark[0]][0]
        if not self._reached(before):
            self._need(before)
            return
        self._queues[mark[0]].pop(0)
        work()
        self._done[mark[0]] += 1

    def follow(self, mark):
        self.ask(lambda: None, mark)

    @property
    def busy(self):
        """Whether anything that was asked for is not done."""
        return any(not isinstance(work, Spoiling) for queue in self._queues for work, _mark in queue)

    def given_back(self):
        queue = getattr(self._current, "queue", 0)

        def write(memory):
            with self._lock:
                self._queues[queue].append((Spoiling(memory), None))

        return write

    def upload(self, data):
        with self._lock:
            buffer = self.fresh(data.size)
        self.send(buffer, data)
        return buffer

    def send(self, target, data):
        memory = np.asarray(target)  # which does not hold the buffer: that is for who asks
        self.ask(lambda: np.copyto(memory, data))

    def write(self, target, data):
        memory, kept = np.asarray(target), np.asarray(data).copy()
        self.ask(lambda: np.copyto(memory, kept))

    def copy(self, target, source):
        memory, given = np.asarray(target), np.asarray(source)
        self.ask(lambda: np.copyto(memory, given))

    def zeros(self, length):
        with self._lock:
            buffer = self.fresh(length)
        memory = np.asarray(buffer)
        self.ask(lambda: memory.fill(0))
        return buffer

    def download(self, buffer):
        self.wait(self.mark())
        return np.asarray(buffer).copy()

    def fetch(self, buffer):
        there = np.full(len(buffer), POISON, np.uint8)
        memory = np.asarray(buffer)
        self.ask(lambda: np.copyto(there, memory))
        return there

    def launch(self, kernel, blocks, buffers):
        launched, memory = super().launch, [np.asarray(buffer) for buffer in buffers]
        self.ask(lambda: launched(kernel, blocks, memory))
