package org.hllm4j.run;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.engine.Context;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.nn.Parameters;

/** What a ranker starts from. Its head is always new. */
public sealed interface RankerStart {
    /** Columns of items.csv that make an item's text. */
    List<String> textKeys();

    int maxHistory();

    /** Tokenises the items of a log. */
    Dataset dataset(Interactions log);

    /** Its parameters, with a head. */
    Parameters.Layout layout(Fusion fusion);

    /**
     * The model with its start weights; the caller closes it.
     *
     * @param rate share of ones among the training labels
     */
    Hllm model(Context context, Fusion fusion, double rate);

    /** What a run of this start says about itself. */
    Origin origin();

    /** A pretrained LLM. */
    record FromLlm(Start start) implements RankerStart {
        @Override
        public List<String> textKeys() {
            return start.textKeys();
        }

        @Override
        public int maxHistory() {
            return start.maxHistory();
        }

        @Override
        public Dataset dataset(Interactions log) {
            return start.dataset(log, null);
        }

        @Override
        public Parameters.Layout layout(Fusion fusion) {
            return Hllm.layout(start.config().withFusion(fusion), start.trained(true));
        }

        @Override
        public Hllm model(Context context, Fusion fusion, double rate) {
            Hllm model = start.ranker(context, fusion);
            model.randomiseRanker(start.seed(), rate);
            return model;
        }

        @Override
        public Origin origin() {
            return start.origin();
        }
    }

    /**
     * The two sides of a trained run.
     *
     * @param freeze which of them keep their weights
     * @param seed of the new head, and of adapters
     * @param adapters through which of them are trained
     */
    record FromRun(RunFolder run, Start.Freeze freeze, long seed, Adapters adapters) implements RankerStart {
        @Override
        public List<String> textKeys() {
            return run.manifest().textKeys();
        }

        @Override
        public int maxHistory() {
            return run.manifest().maxHistory();
        }

        @Override
        public Dataset dataset(Interactions log) {
            run.requireTexts("for a ranker");
            return new Dataset(log.catalogue(), log, run.tokens(log.catalogue()));
        }

        private Hllm.Trained trained() {
            return adapters.on(freeze.trained(true));
        }

        @Override
        public Parameters.Layout layout(Fusion fusion) {
            return Hllm.layout(run.config().withFusion(fusion), trained());
        }

        @Override
        public Hllm model(Context context, Fusion fusion, double rate) {
            Hllm model = run.loadForRanking(context, fusion, trained());
            model.randomiseRanker(seed, rate);
            model.randomiseAdapters(seed);
            return model;
        }

        @Override
        public Origin origin() {
            Map<String, Object> start = new LinkedHashMap<>();
            start.put(
                    "from_run",
                    run.path().getFileName() + " " + run.manifest().modelHash().substring(0, 12));
            start.put("freeze", freeze.name().toLowerCase(Locale.ROOT));
            start.put("start_seed", seed);
            adapters.describe(start);
            return new Origin(textKeys(), run.tokenizerJson(), start);
        }
    }
}
