package org.hllm4j.serve;

import java.util.List;
import java.util.concurrent.CompletableFuture;

/** What is asked about a user. */
sealed interface Question {
    /** Whose keys and values are kept; null: nobody's. */
    String user();

    /** Item ids of all events, oldest first. */
    List<String> history();

    CompletableFuture<Answer> answer();

    /** {@link System#nanoTime} of the question. */
    long asked();

    /** The k best items that the filter lets through and the history does not hold. */
    record Recommend(
            String user, List<String> history, int k, Filter filter, CompletableFuture<Answer> answer, long asked)
            implements Question {}

    /** These items in the order of their probabilities. */
    record Rank(
            String user, List<String> history, List<String> candidates, CompletableFuture<Answer> answer, long asked)
            implements Question {}
}
