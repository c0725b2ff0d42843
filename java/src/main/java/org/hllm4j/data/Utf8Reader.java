package org.hllm4j.data;

import java.io.IOException;
import java.io.InputStream;
import java.io.Reader;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.hllm4j.HllmException;

/**
 * Decodes UTF-8, skips a byte order mark, and names the line of a malformed byte; InputStreamReader would either put
 * U+FFFD in its place or lose the line.
 */
final class Utf8Reader extends Reader {
    private final InputStream in;
    private final Path path;
    private final CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder(); // reports malformed input
    private final ByteBuffer bytes = ByteBuffer.allocate(1 << 16).flip();
    private boolean atStart = true;
    private boolean atEnd;
    private long line = 1;
    private char last;

    Utf8Reader(InputStream in, Path path) {
        this.in = in;
        this.path = path;
    }

    @Override
    public int read(char[] target, int offset, int length) throws IOException {
        CharBuffer chars = CharBuffer.wrap(target, offset, length).slice();
        while (chars.position() == 0) {
            CoderResult result = decoder.decode(bytes, chars, atEnd);
            int decoded = chars.position();
            countLines(target, offset, decoded);
            if (result.isError()) {
                throw new HllmException(path + ":" + line + ": not UTF-8 (byte 0x"
                        + Integer.toHexString(bytes.get(bytes.position()) & 0xff) + "); save the file as UTF-8");
            }
            if (atStart && decoded > 0) {
                atStart = false;
                if (target[offset] == '\uFEFF') {
                    System.arraycopy(target, offset + 1, target, offset, decoded - 1);
                    chars.position(decoded - 1);
                }
            }
            if (chars.position() == 0) {
                if (atEnd) {
                    return -1;
                }
                fill();
            }
        }
        return chars.position();
    }

    @Override
    public void close() throws IOException {
        in.close();
    }

    private void fill() throws IOException {
        bytes.compact();
        int read = in.read(bytes.array(), bytes.position(), bytes.remaining());
        atEnd = read < 0;
        bytes.position(bytes.position() + Math.max(read, 0)).flip();
    }

    /** Lines end as the CSV parser counts them: CR, LF or CR LF. */
    private void countLines(char[] target, int offset, int count) {
        for (int i = offset; i < offset + count; i++) {
            if (target[i] == '\r' || target[i] == '\n' && last != '\r') {
                line++;
            }
            last = target[i];
        }
    }
}
