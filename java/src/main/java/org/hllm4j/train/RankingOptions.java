package org.hllm4j.train;

import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.LabelRule;
import org.hllm4j.data.LabelledSequences;
import org.hllm4j.data.TimeSplit;

/**
 * What a ranker is trained for, beside {@link TrainOptions}.
 *
 * @param label which events were liked
 * @param split what trains and what is held out
 * @param lambda weight of InfoNCE on the same histories, beside the cross entropy of the labels; 0: the labels alone
 * @param itemPrior whether what the training labels say of an item by itself is a part of its logits
 */
public record RankingOptions(LabelRule label, TimeSplit split, double lambda, boolean itemPrior) {
    public RankingOptions {
        if (!(lambda >= 0 && lambda < Double.POSITIVE_INFINITY)) {
            throw new HllmException("lambda is " + lambda + ", expected at least 0");
        }
    }

    /** The labelled events of a log that was read with the rule's column. */
    public LabelledSequences events(Dataset data, int maxHistory) {
        LabelledSequences events = new LabelledSequences(data.interactions(), label, split, maxHistory);
        return itemPrior ? events.withItemPrior() : events;
    }

    /** By name: recorded with a run, and compared when it is resumed. */
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("label", label.toString());
        map.put("validation_from", split.validationFrom());
        map.put("test_from", split.testFrom());
        map.put("lambda", lambda);
        map.put("item_prior", itemPrior);
        return map;
    }
}
