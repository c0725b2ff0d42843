package org.hllm4j.run;

import java.util.List;
import java.util.function.LongConsumer;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;

/** What a training starts from: pretrained LLMs ({@link Start}), or nothing but the items' ids ({@link IdStart}). */
public interface ModelStart {
    /** Columns of items.csv that make an item's text, for a model or for a reader. */
    List<String> textKeys();

    /** Events of a user that the model sees. */
    int maxHistory();

    Hllm.Trained trained();

    /** How the matrices that are not trained are kept. */
    default DType storage() {
        return DType.F32;
    }

    /** The data with what the model reads of each item. */
    Dataset dataset(Interactions log, LongConsumer progress);

    HllmConfig config(Dataset data);

    /** The model with its start weights; the caller closes it. */
    Hllm model(Context context, Dataset data);

    /** What a run of this start says about itself. */
    Origin origin();
}
