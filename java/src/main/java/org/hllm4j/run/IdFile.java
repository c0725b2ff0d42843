package org.hllm4j.run;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.hllm4j.HllmException;
import org.hllm4j.weights.PendingFile;

/**
 * The ids beside a file of vectors: UTF-8, one a line, in the order of the vectors. An id that has a line break, or
 * begins with a quotation mark, is written as a JSON string; all others as they are.
 */
public final class IdFile {
    private static final ObjectMapper JSON = new ObjectMapper();

    private IdFile() {}

    public static void write(Path file, List<String> ids) {
        StringBuilder lines = new StringBuilder();
        try {
            for (String id : ids) {
                boolean plain = !id.startsWith("\"") && id.indexOf('\n') < 0 && id.indexOf('\r') < 0;
                lines.append(plain ? id : JSON.writeValueAsString(id)).append('\n');
            }
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
        PendingFile.write(file, lines.toString().getBytes(StandardCharsets.UTF_8));
    }

    public static List<String> read(Path file) {
        List<String> ids = new ArrayList<>();
        try {
            for (String line : Files.readAllLines(file)) {
                ids.add(line.startsWith("\"") ? JSON.readValue(line, String.class) : line);
            }
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be read as a file of ids, one a line: " + e, e);
        }
        return ids;
    }
}
