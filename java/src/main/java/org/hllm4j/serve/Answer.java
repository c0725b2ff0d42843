package org.hllm4j.serve;

import java.util.List;

/**
 * Items for a user, best first.
 *
 * @param items with a cosine as score from a {@link Retriever}, a probability from a {@link Ranker}
 * @param events of the user that the model saw
 * @param computed positions of the User LLM that were computed for this answer; 0 where it was remembered
 * @param needed positions that an answer without a cache takes
 * @param model hash of the model that answered, see {@link Snapshot#modelHash}
 */
public record Answer(List<Recommender.Recommendation> items, int events, int computed, int needed, String model) {}
