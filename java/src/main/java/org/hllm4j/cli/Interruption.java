package org.hllm4j.cli;

import java.util.concurrent.CountDownLatch;

/**
 * Takes Ctrl-C and SIGTERM as a request to stop at the next safe point: while this is open, the process lives on until
 * {@link #close()} and then ends with 130.
 */
final class Interruption implements AutoCloseable {
    private final CountDownLatch closed = new CountDownLatch(1);
    private final Thread hook;
    private volatile boolean requested;

    Interruption(String whatIsDoneFirst) {
        hook = new Thread(
                () -> {
                    requested = true;
                    System.err.println("Stopping: " + whatIsDoneFirst);
                    try {
                        closed.await();
                    } catch (InterruptedException e) {
                        Thread.currentThread().interrupt();
                    }
                    Runtime.getRuntime().halt(Main.INTERRUPTED);
                },
                "interruption");
        Runtime.getRuntime().addShutdownHook(hook);
    }

    boolean requested() {
        return requested;
    }

    @Override
    public void close() {
        closed.countDown();
        try {
            Runtime.getRuntime().removeShutdownHook(hook);
        } catch (IllegalStateException e) {
            // The process is ending: the hook runs, and was waiting for this.
        }
    }
}
