package org.hllm4j.serve;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/** What waits for the engine: a bounded queue of questions, and chores, which take turns with batches of them. Any thread. */
final class Inbox {
    private final int limit;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final Deque<Question> questions = new ArrayDeque<>();
    private final Deque<Runnable> chores = new ArrayDeque<>();
    private boolean closed;

    Inbox(int limit) {
        this.limit = limit;
    }

    /** @throws BusyException when the queue is full */
    void put(Question question) {
        lock.lock();
        try {
            requireOpen();
            if (questions.size() == limit) {
                questions.removeIf(waiting -> waiting.answer().isDone()); // cancelled
            }
            if (questions.size() == limit) {
                throw new BusyException(limit);
            }
            questions.add(question);
            changed.signal();
        } finally {
            lock.unlock();
        }
    }

    void put(Runnable chore) {
        lock.lock();
        try {
            requireOpen();
            chores.add(chore);
            changed.signal();
        } finally {
            lock.unlock();
        }
    }

    private void requireOpen() {
        if (closed) {
            throw new ClosedException("the engine");
        }
    }

    /** The next chore; or null, where there are questions alone or nothing is left in a closed inbox. Waits for either. */
    Runnable chore() {
        lock.lock();
        try {
            while (chores.isEmpty() && questions.isEmpty() && !closed) {
                changed.awaitUninterruptibly();
            }
            return chores.poll();
        } finally {
            lock.unlock();
        }
    }

    /**
     * The next questions, at most {@code most}: waits until the first is {@code nanos} old, in case others come and no chore
     * does. None where there are none; does not wait for the first.
     */
    List<Question> batch(int most, long nanos) {
        lock.lock();
        try {
            long left = questions.isEmpty() ? 0 : questions.peek().asked() + nanos - System.nanoTime();
            while (questions.size() < most && chores.isEmpty() && !closed && left > 0) {
                left = changed.awaitNanos(left);
            }
            List<Question> batch = new ArrayList<>();
            while (batch.size() < most && !questions.isEmpty()) {
                batch.add(questions.remove());
            }
            return batch;
        } catch (InterruptedException e) {
            throw new IllegalStateException("nobody interrupts the engine's thread", e);
        } finally {
            lock.unlock();
        }
    }

    int waiting() {
        lock.lock();
        try {
            return questions.size();
        } finally {
            lock.unlock();
        }
    }

    /** Refuses whatever comes from now on; what waits is still handed out. */
    void close() {
        lock.lock();
        try {
            closed = true;
            changed.signal();
        } finally {
            lock.unlock();
        }
    }
}
