package org.hllm4j.data;

import de.siegmar.fastcsv.reader.CloseableIterator;
import de.siegmar.fastcsv.reader.CsvParseException;
import de.siegmar.fastcsv.reader.CsvReader;
import de.siegmar.fastcsv.reader.CsvRecord;
import de.siegmar.fastcsv.reader.FieldMismatchStrategy;
import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.zip.GZIPInputStream;
import org.hllm4j.HllmException;

/**
 * A CSV file with a header, plain or gzip (told by its first bytes, not its name). Every record has as many fields as
 * the header. Every error names file and line.
 */
final class CsvFile implements AutoCloseable {
    private final Path path;
    private final CloseableIterator<CsvRecord> records;
    private final List<String> header;

    CsvFile(Path path) {
        this.path = path;
        // Field counts are checked here and not by the parser: its message lacks the file and the line.
        records = CsvReader.builder()
                .extraFieldStrategy(FieldMismatchStrategy.IGNORE)
                .missingFieldStrategy(FieldMismatchStrategy.IGNORE)
                .allowUnclosedQuote(false)
                .ofCsvRecord(new Utf8Reader(open(path), path))
                .iterator();
        try {
            CsvRecord first = read();
            if (first == null) {
                throw new HllmException(path + ": the file is empty, expected a header line");
            }
            header = first.getFields();
            Set<String> names = new HashSet<>();
            for (String name : header) {
                if (!names.add(name)) {
                    throw error(1, "column \"" + name + "\" is named twice in the header " + header);
                }
            }
        } catch (RuntimeException e) {
            close();
            throw e;
        }
    }

    List<String> header() {
        return header;
    }

    /** Place of a column that must be there. */
    int column(String name) {
        int column = header.indexOf(name);
        if (column < 0) {
            throw error(1, "no column \"" + name + "\"; the columns are " + header);
        }
        return column;
    }

    /** The next record, or null at the end of the file. */
    CsvRecord next() {
        CsvRecord record = read();
        if (record != null && record.getFieldCount() != header.size()) {
            throw error(
                    record.getStartingLineNumber(),
                    record.getFieldCount() + " fields, but the header has " + header.size() + " " + header
                            + "; a field that holds a comma, a quote or a line break must be quoted");
        }
        return record;
    }

    HllmException error(long line, String what) {
        return new HllmException(path + ":" + line + ": " + what);
    }

    @Override
    public void close() {
        try {
            records.close();
        } catch (IOException e) {
            throw new HllmException(path + ": cannot be closed: " + e.getMessage(), e);
        }
    }

    private CsvRecord read() {
        try {
            return records.hasNext() ? records.next() : null;
        } catch (UncheckedIOException | CsvParseException e) {
            Throwable cause = e.getCause();
            if (cause instanceof HllmException malformed) {
                throw malformed;
            }
            String detail = cause == null ? "" : ": " + cause.getMessage();
            throw new HllmException(path + ": cannot be read as CSV: " + e.getMessage() + detail, e);
        }
    }

    private static InputStream open(Path path) {
        if (!Files.isRegularFile(path)) {
            throw new HllmException(path + ": no such file (looked at " + path.toAbsolutePath() + ")");
        }
        try {
            InputStream file = Files.newInputStream(path);
            try {
                InputStream in = new BufferedInputStream(file, 1 << 16);
                in.mark(2);
                boolean gzip = in.read() == 0x1f && in.read() == 0x8b;
                in.reset();
                return gzip ? new GZIPInputStream(in, 1 << 16) : in;
            } catch (IOException e) {
                file.close();
                throw e;
            }
        } catch (IOException e) {
            throw new HllmException(path + ": cannot be opened, or its gzip data is damaged: " + e, e);
        }
    }
}
