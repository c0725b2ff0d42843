package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Test;

class LaneTest {
    @Test
    void resultsComeInOrderFromAnotherThread() {
        try (Lane<String> lane = new Lane<>("beside")) {
            for (int i = 0; i < 5; i++) {
                String result = "r" + i;
                lane.add(() -> result + " " + Thread.currentThread().getName());
            }
            assertEquals(5, lane.size());
            for (int i = 0; i < 5; i++) {
                assertEquals("r" + i + " beside", lane.take());
            }
            assertEquals(0, lane.size());
        }
    }

    @Test
    void errorsAreThrownAtWhoTakes() {
        IllegalStateException failure = new IllegalStateException();
        StackOverflowError error = new StackOverflowError();
        try (Lane<String> lane = new Lane<>("beside")) {
            lane.add(() -> {
                throw failure;
            });
            lane.add(() -> {
                throw error;
            });
            lane.add(() -> {
                throw new IOException("disk full");
            });
            lane.add(() -> "goes on");
            assertSame(failure, assertThrows(IllegalStateException.class, lane::take));
            assertSame(error, assertThrows(StackOverflowError.class, lane::take));
            assertTrue(
                    assertThrows(HllmException.class, lane::take).getMessage().contains("disk full"));
            assertEquals("goes on", lane.take());
        }
    }

    @Test
    void closingFinishesWhatWasHandedOverEvenWhenInterrupted() {
        List<Integer> done = new ArrayList<>();
        CountDownLatch started = new CountDownLatch(1);
        CountDownLatch go = new CountDownLatch(1);
        try (Lane<Boolean> lane = new Lane<>("beside")) {
            lane.add(() -> {
                started.countDown();
                go.await();
                return done.add(1);
            });
            lane.add(() -> done.add(2));
            started.await();
            Thread.currentThread().interrupt();
            assertTrue(
                    assertThrows(HllmException.class, lane::take).getMessage().contains("interrupted"));
            go.countDown();
        } catch (InterruptedException e) {
            throw new AssertionError(e);
        }
        assertTrue(Thread.interrupted(), "stays interrupted");
        assertEquals(List.of(1, 2), done);
    }
}
