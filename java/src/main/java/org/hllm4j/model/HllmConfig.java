package org.hllm4j.model;

import org.hllm4j.HllmException;
import org.hllm4j.weights.Family;
import org.hllm4j.weights.ModelConfig;

/**
 * The shape of an HLLM.
 *
 * @param item the Item LLM; null: items are known by their ids
 * @param user the User LLM, a decoder; where its width is not the item's, a projection is learned
 * @param maxTextLength tokens of an item's text, [ITEM] not counted
 * @param maxHistory events of a user that the User LLM sees
 * @param fusion of a ranker; null: the model has no ranking head
 * @param ids the table of ids; null: there is an Item LLM
 */
public record HllmConfig(
        ModelConfig item,
        ModelConfig user,
        Pooling pooling,
        int maxTextLength,
        int maxHistory,
        Fusion fusion,
        IdTable ids) {
    /** A model of texts. */
    public HllmConfig(
            ModelConfig item, ModelConfig user, Pooling pooling, int maxTextLength, int maxHistory, Fusion fusion) {
        this(item, user, pooling, maxTextLength, maxHistory, fusion, null);
    }

    /** A model of item ids. */
    public HllmConfig(IdTable ids, ModelConfig user, int maxHistory) {
        this(null, user, Pooling.MEAN, 1, maxHistory, null, ids);
    }

    /** A model without a ranking head. */
    public HllmConfig(ModelConfig item, ModelConfig user, Pooling pooling, int maxTextLength, int maxHistory) {
        this(item, user, pooling, maxTextLength, maxHistory, null);
    }

    public HllmConfig {
        if ((item == null) == (ids == null)) {
            throw new IllegalArgumentException("items are known either by their texts or by their ids");
        }
        if (item != null && item.family() == Family.SASREC) {
            throw new HllmException("a sasrec reads events, not texts; it can be the user side only");
        }
        if (!user.family().causal()) {
            throw new HllmException(
                    "a " + user.family().modelType() + " sees events before and after one alike, so as a "
                            + "User LLM it would be told what it has to predict; it can be the Item LLM only");
        }
        if (maxTextLength < 1 || maxHistory < 1) {
            throw new HllmException(
                    "max text length " + maxTextLength + " and max history " + maxHistory + " must be at least 1");
        }
    }

    /** The same model with a ranking head. */
    public HllmConfig withFusion(Fusion ranker) {
        return new HllmConfig(item, user, pooling, maxTextLength, maxHistory, ranker, ids);
    }

    /** D, the width of item and user vectors: the User LLM's. */
    public int width() {
        return user.hiddenSize();
    }

    /** Whether the Item LLM's states are brought to that width by a learned projection. */
    public boolean projected() {
        return ids == null && item.hiddenSize() != user.hiddenSize();
    }

    /** Whether items with the same beginning may share what is computed of it. */
    public boolean sharesPrefixes() {
        return ids != null || item.family().sharesPrefixes();
    }
}
