package org.hllm4j.train;

import jdk.jfr.Category;
import jdk.jfr.Description;
import jdk.jfr.Event;
import jdk.jfr.Label;
import jdk.jfr.Name;
import jdk.jfr.StackTrace;

/** One training step, for Java Flight Recorder. */
@Name("org.hllm4j.TrainingStep")
@Label("Training Step")
@Description("Forward, backward and optimiser of one batch")
@Category("hllm4j")
@StackTrace(false)
final class TrainingStepEvent extends Event {
    @Label("Step")
    @Description("From 1")
    private long step;

    @Label("Loss")
    private double loss;

    @Label("Users")
    @Description("Sequences of the batch")
    private int users;

    @Label("Distinct Items")
    private int items;

    @Label("Positions")
    @Description("Predictions")
    private int positions;

    @Label("Tokens")
    @Description("Of all item occurrences, and user positions: what plain code computes")
    private long tokens;

    @Label("Rows")
    @Description("Token rows and user positions that were computed")
    private long rows;

    @Label("Forward Milliseconds")
    private double forward;

    @Label("Backward Milliseconds")
    private double backward;

    @Label("Optimiser Milliseconds")
    private double optimiser;

    /** Ends the event that began with the step. */
    void done(long step, int users, StepResult result, double optimiserSeconds) {
        end();
        if (shouldCommit()) {
            this.step = step;
            loss = result.loss();
            this.users = users;
            items = result.items();
            positions = result.positions();
            tokens = result.tokens();
            rows = result.rows();
            forward = 1e3 * result.forward();
            backward = 1e3 * result.backward();
            optimiser = 1e3 * optimiserSeconds;
            commit();
        }
    }
}
