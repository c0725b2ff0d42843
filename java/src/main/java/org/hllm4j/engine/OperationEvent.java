package org.hllm4j.engine;

import java.util.function.LongSupplier;
import jdk.jfr.Category;
import jdk.jfr.Description;
import jdk.jfr.Event;
import jdk.jfr.Label;
import jdk.jfr.Name;
import jdk.jfr.StackTrace;

/**
 * One native operation, for Java Flight Recorder. Where nothing is recorded it costs nothing that can be measured. On a
 * device that is not the CPU, operations are enqueued: the duration is that of the call, not of the work.
 */
@Name("org.hllm4j.Operation")
@Label("Native Operation")
@Description("One call of an operation of libhllm; on a GPU the duration is that of enqueueing it")
@Category("hllm4j")
@StackTrace(false)
final class OperationEvent extends Event {
    @Label("Operation")
    @Description("Its C function without the prefix hllm_")
    private String operation;

    @Label("Device")
    private String device;

    @Label("Shape")
    @Description("Of the tensor that tells the amount of work: an output, or the rows that are added")
    private String shape;

    @Label("Rows")
    @Description("Size of the first dimension of that shape")
    private long rows;

    @Label("Type")
    @Description("Element type of that tensor")
    private String type;

    @Label("Floating Point Operations")
    @Description("Of matrix products, attention, the loss and ranking, 2 for a multiplication and addition; else 0")
    private long flops;

    /** Starts the clock. */
    static OperationEvent started() {
        OperationEvent event = new OperationEvent();
        event.begin();
        return event;
    }

    /** The native call has returned. */
    void done(String function, String device, Tensor tensor, LongSupplier flops) {
        end();
        if (shouldCommit()) {
            operation = function.substring("hllm_".length());
            this.device = device;
            shape = Tensor.text(tensor.shape());
            rows = tensor.size(0);
            type = tensor.dtype().name();
            this.flops = flops.getAsLong();
            commit();
        }
    }
}
