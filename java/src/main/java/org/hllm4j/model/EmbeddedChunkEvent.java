package org.hllm4j.model;

import jdk.jfr.Category;
import jdk.jfr.Description;
import jdk.jfr.Event;
import jdk.jfr.Label;
import jdk.jfr.Name;
import jdk.jfr.StackTrace;
import org.hllm4j.data.PackedTokens;

/** One chunk of a catalogue turned into vectors, for Java Flight Recorder. */
@Name("org.hllm4j.EmbeddedChunk")
@Label("Embedded Chunk")
@Description("Packing and forward pass of some items of a catalogue, and what was done with their vectors")
@Category("hllm4j")
@StackTrace(false)
final class EmbeddedChunkEvent extends Event {
    @Label("Items")
    private int items;

    @Label("Distinct Texts")
    private int texts;

    @Label("Tokens")
    @Description("Of the items' texts, [ITEM] not counted")
    private long tokens;

    @Label("Rows")
    @Description("Token rows that were computed: fewer, as shared prefixes are computed once")
    private int rows;

    /** Starts the clock. */
    static EmbeddedChunkEvent started() {
        EmbeddedChunkEvent event = new EmbeddedChunkEvent();
        event.begin();
        return event;
    }

    /** The chunk is done. */
    void done(int[][] items, PackedTokens pack) {
        end();
        if (shouldCommit()) {
            this.items = items.length;
            texts = pack.leaves();
            for (int[] item : items) {
                tokens += item.length;
            }
            rows = pack.rows();
            commit();
        }
    }
}
