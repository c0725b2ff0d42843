package org.hllm4j.data;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.hllm4j.HllmException;

/**
 * A thread that works beside the caller's: it prepares what the caller takes, or finishes what the caller hands over. Its
 * tasks run one after the other; whoever adds one keeps their number bounded by taking results. Used by one thread.
 */
public final class Lane<T> implements AutoCloseable {
    private final ExecutorService thread;
    private final Deque<Future<T>> tasks = new ArrayDeque<>();

    /** @param name of the thread */
    public Lane(String name) {
        thread = Executors.newSingleThreadExecutor(
                Thread.ofPlatform().daemon().name(name).factory());
    }

    /** Tasks whose results were not taken. */
    public int size() {
        return tasks.size();
    }

    public void add(Callable<T> task) {
        tasks.add(thread.submit(task));
    }

    /**
     * Waits for the result of the oldest task, and throws what it threw.
     *
     * @throws HllmException when this thread was interrupted, which it then still is
     */
    public T take() {
        try {
            if (Thread.interrupted()) {
                throw new InterruptedException();
            }
            return tasks.remove().get();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new HllmException("interrupted", e);
        } catch (ExecutionException e) {
            switch (e.getCause()) {
                case RuntimeException failure -> throw failure;
                case Error failure -> throw failure;
                default -> throw new HllmException(e.getCause().toString(), e.getCause());
            }
        }
    }

    /** Waits until the tasks that were added are done; what they would return or throw is lost. */
    @Override
    public void close() {
        boolean interrupted = Thread.interrupted(); // else they would be interrupted, too
        thread.close();
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
