package org.hllm4j.train;

/** Learning rate by step: linear warm-up from 0, then half a cosine to 0; as the official code's. */
record CosineSchedule(double peak, double warmupSteps, long totalSteps) {
    /** @param step from 0; the first step's rate is 0 with a warm-up */
    double rate(long step) {
        if (step < warmupSteps) {
            return peak * step / Math.max(1, warmupSteps);
        }
        double progress = (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
        return peak * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
    }
}
