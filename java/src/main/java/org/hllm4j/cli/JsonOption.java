package org.hllm4j.cli;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.weights.PendingFile;
import picocli.CommandLine.Option;

/** The results for programs. */
final class JsonOption {
    private static final ObjectMapper JSON = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);

    @Option(names = "--json", paramLabel = "FILE", description = "Also write the results to this file, as JSON.")
    private Path file;

    void write(Map<String, ?> results) {
        if (file != null) {
            write(file, results);
        }
    }

    static Map<String, ?> read(Path file) {
        try {
            return JSON.readValue(file.toFile(), new TypeReference<>() {});
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be read: " + e, e);
        }
    }

    static void write(Path file, Map<String, ?> results) {
        try {
            PendingFile.write(file, (JSON.writeValueAsString(results) + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }
}
