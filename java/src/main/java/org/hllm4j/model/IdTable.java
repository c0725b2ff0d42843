package org.hllm4j.model;

import org.hllm4j.HllmException;

/**
 * The shape of an item side that knows items by their ids alone.
 *
 * @param items rows of the table: the catalogue's
 * @param width numbers of an id's embedding; a projection takes them to the user side's width where that differs
 */
public record IdTable(int items, int width) {
    public IdTable {
        if (items < 1 || width < 1) {
            throw new HllmException("a table of " + items + " item ids, " + width + " wide; both must be at least 1");
        }
    }

    /** What stands for the items' texts: the one token of an item is its row. */
    public static int[][] tokens(int items) {
        int[][] tokens = new int[items][];
        for (int row = 0; row < items; row++) {
            tokens[row] = new int[] {row};
        }
        return tokens;
    }
}
