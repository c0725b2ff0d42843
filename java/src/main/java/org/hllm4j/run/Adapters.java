package org.hllm4j.run;

import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.model.Hllm;
import org.hllm4j.nn.Lora;

/**
 * Which sides are trained through adapters (LoRA), their own weights staying as they are.
 *
 * @param item rank of the adapters of the Item LLM; 0: it has none
 * @param user of the User LLM
 * @param alpha what an adapter adds is multiplied by alpha / rank
 */
public record Adapters(int item, int user, double alpha) {
    public static final double ALPHA = 16;
    public static final Adapters NONE = new Adapters(0, 0, ALPHA);

    public Adapters {
        if (item < 0 || user < 0 || !(alpha > 0) || !Double.isFinite(alpha)) {
            throw new HllmException("adapters of ranks " + item + " and " + user + " with alpha " + alpha
                    + ": ranks are at least 0, alpha is above 0");
        }
    }

    /** Whether there are some. */
    public boolean any() {
        return item > 0 || user > 0;
    }

    /** What is trained, with these. */
    Hllm.Trained on(Hllm.Trained trained) {
        return trained.withLora(lora(item), lora(user));
    }

    private Lora lora(int rank) {
        return rank == 0 ? null : new Lora(rank, alpha);
    }

    /** For a run's manifest, where there are some. */
    void describe(Map<String, Object> start) {
        if (any()) {
            start.put("item_lora", item);
            start.put("user_lora", user);
            start.put("lora_alpha", alpha);
        }
    }
}
