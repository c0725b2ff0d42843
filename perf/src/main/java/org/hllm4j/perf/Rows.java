package org.hllm4j.perf;

import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;
import org.hllm4j.HllmException;

/** The rows measured so far; each is printed as it comes. */
final class Rows {
    private final Pattern only;
    private final PrintWriter out;
    private final List<Row> rows = new ArrayList<>();

    /** @param only what a section's "group name" must contain to be measured */
    Rows(Pattern only, PrintWriter out) {
        this.only = only;
        this.out = out;
    }

    /** Measures one or several rows that belong together, if they are wanted; a failure becomes a row, not the end. */
    void section(String group, String name, Runnable measure) {
        if (!only.matcher(group + " " + name).find()) {
            return;
        }
        try {
            measure.run();
        } catch (HllmException | OutOfMemoryError e) {
            add(Row.failed(group, name, e.getMessage()));
        }
    }

    void add(Row row) {
        rows.add(row);
        out.println(Report.line(row));
        out.flush();
    }

    List<Row> all() {
        return List.copyOf(rows);
    }
}
