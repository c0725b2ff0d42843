package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.RowFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class PeerTest {
    private static final String OUTPUT = """
        Loading weights: 100%
        {"what": "bandwidth", "copy_gb_s": 29.0}
        {"what": "topk1", "seconds": 0.18}
        """;

    @Test
    void jsonLinesAreFoundAmongChatter() {
        Peer.Answer answer = new Peer.Answer(OUTPUT, 0);
        assertEquals(2, answer.lines().size());
        assertEquals(0.18, answer.number("topk1", "seconds"));
        assertEquals(29, answer.number("bandwidth", "copy_gb_s"));
    }

    @Test
    void whatIsMissingIsNamed() {
        Peer.Answer answer = new Peer.Answer(OUTPUT, 0);
        assertTrue(message(() -> answer.number("infonce", "seconds")).contains("infonce"));
        assertTrue(message(() -> answer.number("topk1", "gb_s")).contains("gb_s"));
        assertTrue(message(() -> Peer.parse("no json\n")).contains("no JSON line"));
        assertTrue(message(() -> Peer.parse("{\"cut\": ")).contains("{\"cut\""));
    }

    @Test
    void aProcessThatFailsIsQuoted() {
        String message = message(() -> Peer.execute(List.of("sh", "-c", "echo no such module >&2; exit 3"), Map.of()));
        assertTrue(message.contains("exit status 3") && message.contains("no such module"), message);
    }

    @Test
    void aProcessIsHeardAndMeasured() {
        Peer.Answer answer = Peer.execute(List.of("sh", "-c", "sleep 0.1; echo {\\\"x\\\": $X}"), Map.of("X", "5"));
        assertEquals(5, answer.line().get("x").intValue());
        assertTrue(answer.peakGb() > 1e-4 && answer.peakGb() < 1, "peak " + answer.peakGb());
    }

    @Test
    void vectorsAreReadAndCompared(@TempDir Path folder) {
        float[] theirs = {3, 4, 0, 1, 0, 0};
        try (RowFile writer = Npy.create(folder.resolve("v.npy"), 2, 3)) {
            writer.write(0, FloatBuffer.wrap(theirs));
            writer.finish();
        }
        assertArrayEquals(theirs, Peer.floats(folder.resolve("v.npy")));
        assertEquals(0, Peer.error(theirs, theirs, 3));
        assertEquals(0.5, Peer.error(new float[] {3, 4, 1, 1, 0.5f, 0}, theirs, 3)); // 1/5 and 0.5/1
        assertEquals(Double.POSITIVE_INFINITY, Peer.error(new float[] {Float.NaN, 4, 0, 1, 0, 0}, theirs, 3));
        assertEquals(Double.POSITIVE_INFINITY, Peer.error(new float[] {3, 4, 0}, theirs, 3));
        assertArrayEquals(new double[] {0, 0.5}, Peer.errors(new float[] {3, 4, 0, 1, 0.5f, 0}, theirs, 3));
    }

    private static String message(Runnable failing) {
        return assertThrows(HllmException.class, failing::run).getMessage();
    }
}
