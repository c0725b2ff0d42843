package org.hllm4j.data;

/**
 * What a model is trained and evaluated on.
 *
 * @param catalogue items in row order
 * @param interactions the log; its items are rows of the catalogue
 * @param tokens token ids of each item's text, cut to the model's max text length; empty for a bare item
 */
public record Dataset(Catalogue catalogue, Interactions interactions, int[][] tokens) {}
