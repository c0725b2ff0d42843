package org.hllm4j.run;

import java.util.List;
import java.util.Map;

/**
 * Where a model comes from: what its run folder has to say beside the weights.
 *
 * @param textKeys columns that make an item's text
 * @param tokenizerJson of the Item LLM
 * @param start how the weights started: initial models, layers, what is frozen
 */
public record Origin(List<String> textKeys, String tokenizerJson, Map<String, Object> start) {}
