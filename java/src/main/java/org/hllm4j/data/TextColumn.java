package org.hllm4j.data;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * An append-only column of strings, kept as UTF-8 in pages: 12 bytes beside the text itself, where a String costs
 * about 50. A million items stay cheap.
 */
final class TextColumn {
    private static final int PAGE = 1 << 18;

    private byte[][] pages = new byte[4][];
    private int page = -1;
    private int used;
    private long[] begin = new long[64]; // page << 32 | place in the page
    private int[] length = new int[64];
    private int size;

    int size() {
        return size;
    }

    void add(byte[] utf8) {
        if (page < 0 || utf8.length > pages[page].length - used) {
            page++;
            if (page == pages.length) {
                pages = Arrays.copyOf(pages, 2 * page);
            }
            pages[page] = new byte[Math.max(PAGE, utf8.length)];
            used = 0;
        }
        if (size == begin.length) {
            begin = Arrays.copyOf(begin, 2 * size);
            length = Arrays.copyOf(length, 2 * size);
        }
        System.arraycopy(utf8, 0, pages[page], used, utf8.length);
        begin[size] = (long) page << 32 | used;
        length[size++] = utf8.length;
        used += utf8.length;
    }

    void add(String text) {
        add(text.getBytes(StandardCharsets.UTF_8));
    }

    String get(int row) {
        return new String(pages[(int) (begin[row] >>> 32)], (int) begin[row], length[row], StandardCharsets.UTF_8);
    }

    /** Orders two rows by their bytes. */
    int compare(int a, int b) {
        int from = (int) begin[a];
        int other = (int) begin[b];
        return Arrays.compareUnsigned(
                pages[(int) (begin[a] >>> 32)],
                from,
                from + length[a],
                pages[(int) (begin[b] >>> 32)],
                other,
                other + length[b]);
    }

    boolean equals(int row, byte[] utf8) {
        int from = (int) begin[row];
        return length[row] == utf8.length
                && Arrays.equals(pages[(int) (begin[row] >>> 32)], from, from + utf8.length, utf8, 0, utf8.length);
    }
}
