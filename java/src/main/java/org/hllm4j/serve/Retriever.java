package org.hllm4j.serve;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.hllm4j.HllmException;

/**
 * What a user may like, of all items: the exact top k by the cosine of the prediction after the user's last event and
 * the item's vector, with any kind of run (a ranker's [USER] state has no such meaning: its head alone reads it). A
 * view of an engine and a source of histories, which stay open when it is closed; any thread.
 */
public final class Retriever implements AutoCloseable {
    private final Engine engine;
    private final HistorySource source;
    private volatile boolean closed;

    public Retriever(Engine engine, HistorySource source) {
        this.engine = engine;
        this.source = source;
    }

    /**
     * The k best items for a user, without those of the history. Reads the history before it returns; the future fails
     * with an {@link UnanswerableException} where it has no item of the catalogue.
     *
     * @throws BusyException when the engine's queue is full
     */
    public CompletableFuture<Answer> recommend(String user, int k, Filter filter) {
        requireOpen(k);
        return ask(user, source.history(user).items(), k, filter);
    }

    /**
     * The same for somebody of whom nothing is kept.
     *
     * @param history item ids, oldest first; those that are not in the catalogue are left out
     */
    public CompletableFuture<Answer> recommend(List<String> history, int k, Filter filter) {
        requireOpen(k);
        return ask(null, history, k, filter);
    }

    private CompletableFuture<Answer> ask(String user, List<String> history, int k, Filter filter) {
        return engine.ask(
                new Question.Recommend(user, history, k, filter, new CompletableFuture<>(), System.nanoTime()));
    }

    private void requireOpen(int k) {
        if (closed) {
            throw new ClosedException("the retriever");
        }
        if (k < 1) {
            throw new HllmException("asked for " + k + " recommendations; expected at least 1");
        }
    }

    /** Refuses questions from now on; those that were asked are answered. */
    @Override
    public void close() {
        closed = true;
    }
}
