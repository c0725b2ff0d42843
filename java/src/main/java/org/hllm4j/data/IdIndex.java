package org.hllm4j.data;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Distinct ids, numbered from 0 in the order they were added, and found again by a hash table of row numbers. */
final class IdIndex {
    private final TextColumn ids = new TextColumn();
    private int[] hashes = new int[64];
    private int[] slots = new int[256]; // row + 1, 0 = free; always at most half full

    int size() {
        return ids.size();
    }

    String get(int row) {
        return ids.get(row);
    }

    /** The id's row, or -1. */
    int find(String id) {
        byte[] utf8 = id.getBytes(StandardCharsets.UTF_8);
        return slots[slot(utf8, hash(utf8))] - 1;
    }

    /** The id's row; a new id gets the next one. */
    int add(String id) {
        byte[] utf8 = id.getBytes(StandardCharsets.UTF_8);
        int hash = hash(utf8);
        int slot = slot(utf8, hash);
        if (slots[slot] == 0) {
            int row = ids.size();
            ids.add(utf8);
            if (row == hashes.length) {
                hashes = Arrays.copyOf(hashes, 2 * row);
            }
            hashes[row] = hash;
            slots[slot] = row + 1;
            if (2 * ids.size() > slots.length) {
                grow();
            }
            return row;
        }
        return slots[slot] - 1;
    }

    IdIndex copy() {
        IdIndex copy = new IdIndex();
        for (int row = 0; row < size(); row++) {
            copy.add(get(row));
        }
        return copy;
    }

    private int slot(byte[] utf8, int hash) {
        int slot = hash & slots.length - 1;
        while (slots[slot] != 0 && !(hashes[slots[slot] - 1] == hash && ids.equals(slots[slot] - 1, utf8))) {
            slot = slot + 1 & slots.length - 1;
        }
        return slot;
    }

    private void grow() {
        slots = new int[2 * slots.length];
        for (int row = 0; row < size(); row++) {
            int slot = hashes[row] & slots.length - 1;
            while (slots[slot] != 0) {
                slot = slot + 1 & slots.length - 1;
            }
            slots[slot] = row + 1;
        }
    }

    private static int hash(byte[] utf8) {
        int hash = Arrays.hashCode(utf8) * 0x9E3779B9; // spreads ids that are counted up
        return hash ^ hash >>> 15;
    }
}
