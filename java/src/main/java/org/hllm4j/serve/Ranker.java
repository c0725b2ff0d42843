package org.hllm4j.serve;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.hllm4j.HllmException;

/**
 * How likely a user takes to each of some items, by the ranking head of a run of {@code train-ranker}. With late fusion
 * the user's feature is computed once and the head alone runs for each candidate; with early fusion each candidate is
 * one position of the User LLM over the user's cached keys and values. A view of an engine and a source of histories,
 * which stay open when it is closed; any thread.
 */
public final class Ranker implements AutoCloseable {
    private final Engine engine;
    private final HistorySource source;
    private volatile boolean closed;

    public Ranker(Engine engine, HistorySource source) {
        this.engine = engine;
        this.source = source;
    }

    /**
     * The candidates, the likeliest first, equal ones in the order given; removed items and those of the history are
     * ranked too. A user without events is ranked for as the model learned it. The future fails with an
     * {@link UnanswerableException} where a candidate is not in the catalogue, or the run has no ranking head.
     *
     * @param candidates item ids, at least one
     * @throws BusyException when the engine's queue is full
     */
    public CompletableFuture<Answer> rank(String user, List<String> candidates) {
        requireOpen(candidates);
        return ask(user, source.history(user).items(), candidates);
    }

    /**
     * The same for somebody of whom nothing is kept.
     *
     * @param history item ids, oldest first; those that are not in the catalogue are left out
     */
    public CompletableFuture<Answer> rank(List<String> history, List<String> candidates) {
        requireOpen(candidates);
        return ask(null, history, candidates);
    }

    private CompletableFuture<Answer> ask(String user, List<String> history, List<String> candidates) {
        return engine.ask(new Question.Rank(user, history, candidates, new CompletableFuture<>(), System.nanoTime()));
    }

    private void requireOpen(List<String> candidates) {
        if (closed) {
            throw new ClosedException("the ranker");
        }
        if (candidates.isEmpty()) {
            throw new HllmException("no candidates to rank; expected at least one");
        }
    }

    /** Refuses questions from now on; those that were asked are answered. */
    @Override
    public void close() {
        closed = true;
    }
}
