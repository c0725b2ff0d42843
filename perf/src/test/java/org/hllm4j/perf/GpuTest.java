package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class GpuTest {
    private static final String DEVICE = "cuda-emulated";

    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    @TempDir
    private Path folder;

    private int run(String... args) {
        return Bench.run(new PrintWriter(out), new PrintWriter(err), args);
    }

    @Test
    void everyRowOfAGpuIsMeasuredOnTheEmulatedOne() throws Exception {
        assumeTrue(Context.available(DEVICE), "skipped: this build has no " + DEVICE);
        Path history = folder.resolve("h.jsonl");
        int status = run(
                "--device",
                DEVICE,
                "--quick",
                "--runs",
                "1",
                "--seconds-per-row",
                "0",
                "--out",
                folder.resolve("r.md").toString(),
                "--history",
                history.toString());
        assertEquals(0, status, out + "\n" + err);
        Set<String> groups = new TreeSet<>();
        Set<String> names = new TreeSet<>();
        for (String line : Files.readAllLines(history)) {
            JsonNode row = new ObjectMapper().readTree(line);
            groups.add(row.get("group").textValue());
            names.add(row.get("name").textValue());
            assertTrue(row.at("/time/median").doubleValue() > 0, line);
            assertTrue(row.at("/machine/gpu").textValue().contains("emulator"), line);
            assertTrue(row.get("goals").isEmpty(), "small sizes say nothing about goals: " + line);
        }
        assertEquals(Set.of("gpu peak", "gpu op", "gpu model"), groups);
        for (String of : List.of(
                "append by calls",
                "append by graph",
                "recommend, best 5 of 300",
                "rank with late fusion",
                "rank with early fusion",
                "training step, both sides",
                "evaluation, full ranking",
                "retrieval, best 5")) {
            assertTrue(names.contains("small " + of), () -> "no row of " + of + " in " + names);
        }
        assertTrue(out.toString().contains("goal       top 200"), out.toString());
        assertEquals(0, Context.liveBytes(DEVICE));
    }

    @Test
    void aGpuTakesNoModel() {
        assertEquals(2, run("--device", DEVICE, "--llm", "model.gguf"));
        assertTrue(err.toString().contains("--device " + DEVICE), err.toString());
    }

    @Test
    void aWrongResultIsNotTimed() {
        Gpu.compare("y", new float[] {1, 2.01f}, new float[] {1, 2});
        for (float[] wrong : new float[][] {{1, 2.1f}, {1, Float.NaN}, {0, 0}}) {
            HllmException refused =
                    assertThrows(HllmException.class, () -> Gpu.compare("y", wrong, new float[] {1, 2}));
            assertTrue(refused.getMessage().startsWith("y differs"), refused.getMessage());
        }
        assertThrows(HllmException.class, () -> Gpu.compare("y", new float[2], new float[2]), "nothing to compare");
    }

    @Test
    void goalsOfAGpuAreMeasuredByFullSizes() {
        Timing time = Timing.of(List.of(2e-3));
        Row.Rate half = Row.Rate.of(50, "x", 100, "limit");
        List<Row> rows = List.of(
                row("catalogue embedding, texts of 64, 4096 rows at a time", "2048 items", time)
                        .useful(Row.Rate.of(0.75, Gpu.MFU)),
                row("training step, both sides", "12 users x 10 events", time).useful(Row.Rate.of(0.25, Gpu.MFU)),
                row("append by graph", "128 users of 50 events", time),
                Row.of(GpuOps.GROUP, "TinyLlama-1.1B attention forward", "128 x 128", time)
                        .arithmetic(half),
                Row.of(GpuOps.GROUP, "TinyLlama-1.1B attention forward", "8 x 2048", time)
                        .arithmetic(half),
                Row.of(GpuOps.GROUP, "TinyLlama-1.1B InfoNCE forward and backward", "4096 x 512 x 2048", time)
                        .arithmetic(half),
                Row.of(GpuOps.GROUP, "TinyLlama-1.1B top 200 for 128 users", "1000000 x 2048", time));
        List<Double> margins = rows.stream()
                .flatMap(row -> Goal.GPU.stream().map(goal -> goal.of(row)))
                .filter(Objects::nonNull)
                .map(Goal.Outcome::margin)
                .toList();
        double[] expected = {0.75 / 0.6, 0.25 / 0.5, 0.5, 0.5 / 0.8, 0.5 / 0.6, 0.8};
        assertEquals(expected.length, margins.size());
        for (int i = 0; i < expected.length; i++) {
            assertEquals(expected[i], margins.get(i), 1e-9);
        }
    }

    private static Row row(String what, String size, Timing time) {
        return Row.of(GpuModel.GROUP, "TinyLlama-1.1B " + what, size, time);
    }
}
