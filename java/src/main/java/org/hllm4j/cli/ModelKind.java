package org.hllm4j.cli;

import org.hllm4j.train.TrainOptions;

/** The models that {@code train} makes: an item side, a user side, and the same losses, training and evaluation. */
enum ModelKind {
    HLLM("hllm", "HLLM"),
    SASREC("sasrec", "SASRec"),
    LLM_ID("llm-id", "LLM-ID"),
    POPULARITY("popularity", "popularity");

    private final String option;
    private final String title;

    ModelKind(String option, String title) {
        this.option = option;
        this.title = title;
    }

    /** As people write it. */
    String title() {
        return title;
    }

    /** Where the command line says nothing else. */
    TrainOptions defaults() {
        return switch (this) {
            case HLLM -> TrainOptions.DEFAULTS;
            case SASREC -> TrainOptions.ID_DEFAULTS.withDropout(0.1);
            case LLM_ID, POPULARITY -> TrainOptions.ID_DEFAULTS;
        };
    }

    /** The kind of a run's manifest. */
    static ModelKind of(String option) {
        for (ModelKind kind : values()) {
            if (kind.option.equals(option)) {
                return kind;
            }
        }
        return HLLM; // a run of an earlier version
    }

    /** As options, files and manifests name it. */
    @Override
    public String toString() {
        return option;
    }
}
