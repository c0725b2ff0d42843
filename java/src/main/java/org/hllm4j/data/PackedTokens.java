package org.hllm4j.data;

import java.util.Arrays;
import org.hllm4j.HllmException;

/**
 * Token sequences packed into T rows, with the attention plan over them. The arrays belong to the pack and are not to
 * be changed.
 *
 * <p>A <b>segment</b> is a run of consecutive rows that are computed as queries together. It sees an ordered list of
 * key <b>spans</b> (runs of rows); the last one ends with the segment itself, which is causal and aligned with that
 * end. So the spans of a segment hold exactly the tokens from the start of the sequence to the segment's last row.
 * Every row is in exactly one segment, and a row comes after all rows that it sees.
 *
 * <p>A <b>leaf</b> is the last row of a distinct sequence. The <b>tail</b> is a second plan for the last layer, where
 * only leaves are needed as queries: one segment of one row per leaf, which sees the leaf's whole path.
 *
 * @param ids [T] token ids, -1 at an [ITEM] token; empty for {@link #sequences}
 * @param positions [T] place in the sequence, from 0
 * @param segmentBegin [segments] first row
 * @param segmentLength [segments] rows
 * @param spanOffsets [segments + 1] into spanBegin and spanLength
 * @param spanBegin first row of each span
 * @param spanLength rows of each span
 * @param outputRow [sequences] leaf of each input sequence; equal sequences share one
 * @param leafRow [leaves] row of the leaf
 * @param tailSpanOffsets [leaves + 1] into tailSpanBegin and tailSpanLength
 * @param tailSpanBegin first row of each span of the tail plan
 * @param tailSpanLength rows of each span of the tail plan
 * @param inputTokens tokens of all input sequences, [ITEM] included: what a model that shares nothing would compute
 */
public record PackedTokens(
        int[] ids,
        int[] positions,
        int[] segmentBegin,
        int[] segmentLength,
        int[] spanOffsets,
        int[] spanBegin,
        int[] spanLength,
        int[] outputRow,
        int[] leafRow,
        int[] tailSpanOffsets,
        int[] tailSpanBegin,
        int[] tailSpanLength,
        long inputTokens) {

    /**
     * Sequences that stand side by side and share nothing, in the order given: the user side, whose inputs are vectors
     * and have no ids.
     *
     * @param lengths at least 1 each
     */
    public static PackedTokens sequences(int[] lengths) {
        int n = lengths.length;
        int[] begin = new int[n];
        int[] leaf = new int[n];
        int[] counting = new int[n + 1]; // 0..n: sequence s has span s and leaf s
        int rows = 0;
        for (int s = 0; s < n; s++) {
            if (lengths[s] < 1) {
                throw new HllmException(
                        "sequence " + s + " of the batch has length " + lengths[s] + "; expected at least 1 event");
            }
            begin[s] = rows;
            rows = Math.addExact(rows, lengths[s]);
            leaf[s] = rows - 1;
            counting[s + 1] = s + 1;
        }
        int[] positions = new int[rows];
        for (int s = 0; s < n; s++) {
            for (int k = 0; k < lengths[s]; k++) {
                positions[begin[s] + k] = k;
            }
        }
        int[] length = lengths.clone();
        int[] identity = Arrays.copyOf(counting, n);
        return new PackedTokens(
                new int[0],
                positions,
                begin,
                length,
                counting,
                begin,
                length,
                identity,
                leaf,
                counting,
                begin,
                length,
                rows);
    }

    /** T, the rows that are computed. */
    public int rows() {
        return positions.length;
    }

    public int segments() {
        return segmentBegin.length;
    }

    /** Distinct sequences. */
    public int leaves() {
        return leafRow.length;
    }

    /**
     * Offsets [segments + 1] of the sequences, from 0 to T, for kernels that know nothing but sequences side by side.
     *
     * @throws HllmException when sequences share rows
     */
    public int[] cuSeqlens() {
        int[] offsets = Arrays.copyOf(segmentBegin, segments() + 1);
        offsets[segments()] = rows();
        for (int s = 0; s < segments(); s++) {
            if (positions[offsets[s]] != 0 || segments() != leaves()) {
                throw new HllmException("these sequences share prefixes and have no cu_seqlens; pack them unshared");
            }
        }
        return offsets;
    }

    /** Offsets [leaves + 1] into {@link #pathRows}. */
    public int[] pathOffsets() {
        int[] offsets = new int[leaves() + 1];
        for (int leaf = 0; leaf < leaves(); leaf++) {
            offsets[leaf + 1] = Math.addExact(offsets[leaf], positions[leafRow[leaf]] + 1);
        }
        return offsets;
    }

    /** All rows of each leaf's sequence, first token first: what mean pooling sums over. */
    public int[] pathRows() {
        int[] rows = new int[pathOffsets()[leaves()]];
        int n = 0;
        for (int span = 0; span < tailSpanBegin.length; span++) {
            for (int k = 0; k < tailSpanLength[span]; k++) {
                rows[n++] = tailSpanBegin[span] + k;
            }
        }
        return rows;
    }
}
