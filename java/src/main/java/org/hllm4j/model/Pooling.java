package org.hllm4j.model;

/** How an item's tokens become its vector. */
public enum Pooling {
    /** The hidden state of a learned [ITEM] token at the end of the text. */
    TOKEN,
    /** The mean of the hidden states of the text's tokens. */
    MEAN
}
