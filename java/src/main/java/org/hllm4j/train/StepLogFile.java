package org.hllm4j.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/** The steps of a run twice: {@code steps.jsonl} for programs, and events for TensorBoard. */
final class StepLogFile implements AutoCloseable {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Path file;
    private final Writer lines;
    private final TensorBoardWriter events;

    /** Continues a log after {@code step} steps: lines of later ones, which will be done again, are dropped. */
    StepLogFile(Path folder, long step) {
        file = folder.resolve("steps.jsonl");
        try {
            List<String> kept = new ArrayList<>();
            if (step > 0 && Files.exists(file)) {
                for (String line : Files.readAllLines(file)) {
                    if (stepOf(line) <= step) {
                        kept.add(line);
                    }
                }
            }
            Files.write(file, kept);
            lines = Files.newBufferedWriter(file, StandardCharsets.UTF_8, StandardOpenOption.APPEND);
            events = new TensorBoardWriter(folder, step);
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be written: " + e, e);
        }
    }

    /** A line cut short by a crash belongs to no step that a checkpoint has seen. */
    private static long stepOf(String line) {
        try {
            return JSON.readTree(line).path("step").asLong(Long.MAX_VALUE);
        } catch (JsonProcessingException e) {
            return Long.MAX_VALUE;
        }
    }

    void step(StepLog log) {
        StepResult result = log.result();
        Map<String, Object> scalars = new LinkedHashMap<>(result.scalars());
        scalars.put("gradient_norm", log.gradientNorm());
        scalars.put("lr", log.lr());
        scalars.put("tokens_per_second", result.tokens() / log.seconds());
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("step", log.step());
        line.put("epoch", log.epoch());
        line.putAll(scalars);
        line.put("positions", result.positions());
        line.put("items", result.items());
        line.put("tokens", result.tokens());
        line.put("rows", result.rows());
        line.put("seconds", log.seconds());
        write(line);
        scalars.forEach((name, value) -> events.scalar(log.step(), "train/" + name, (Double) value));
    }

    void epoch(long step, int epoch, Map<String, Double> validation) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("step", step);
        line.put("epoch", epoch);
        line.put("validation", validation);
        write(line);
        validation.forEach((name, value) -> events.scalar(step, "validation/" + name, value));
        flush();
    }

    private void write(Map<String, Object> line) {
        try {
            lines.write(JSON.writeValueAsString(line));
            lines.write('\n');
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be written: " + e, e);
        }
    }

    void flush() {
        try {
            lines.flush();
            events.flush();
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be written: " + e, e);
        }
    }

    @Override
    public void close() {
        try {
            lines.close();
            events.close();
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be written: " + e, e);
        }
    }
}
