package org.hllm4j.serve;

import java.util.concurrent.CountDownLatch;

/** Holds an engine's thread after every answer, until it may go on. */
public final class Standstill implements Engine.Listener {
    private final CountDownLatch stands = new CountDownLatch(1);
    private final CountDownLatch goOn = new CountDownLatch(1);

    @Override
    public void answered(String operation, long waited, long computed, int batch) {
        stands.countDown();
        try {
            goOn.await();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Waits until the engine stands. */
    public void await() throws InterruptedException {
        stands.await();
    }

    /** From here on the engine does not stand still any more. */
    public void goOn() {
        goOn.countDown();
    }
}
