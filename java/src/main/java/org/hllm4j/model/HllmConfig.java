package org.hllm4j.model;

import org.hllm4j.HllmException;
import org.hllm4j.weights.ModelConfig;

/**
 * The shape of an HLLM.
 *
 * @param item the Item LLM
 * @param user the User LLM; its width is the item's
 * @param maxTextLength tokens of an item's text, [ITEM] not counted
 * @param maxHistory events of a user that the User LLM sees
 */
public record HllmConfig(ModelConfig item, ModelConfig user, Pooling pooling, int maxTextLength, int maxHistory) {
    public HllmConfig {
        if (item.hiddenSize() != user.hiddenSize()) {
            throw new HllmException("the Item LLM is " + item.hiddenSize() + " wide and the User LLM "
                    + user.hiddenSize() + "; both must have the same width: item vectors are the User LLM's inputs");
        }
        if (maxTextLength < 1 || maxHistory < 1) {
            throw new HllmException(
                    "max text length " + maxTextLength + " and max history " + maxHistory + " must be at least 1");
        }
    }

    /** D, the width of item and user vectors. */
    public int width() {
        return item.hiddenSize();
    }
}
