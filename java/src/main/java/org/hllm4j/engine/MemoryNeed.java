package org.hllm4j.engine;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.hllm4j.HllmException;

/** What some work takes of a device's memory, part by part; what cannot fit is refused before anything is allocated. */
public final class MemoryNeed {
    private static final double GIB = 1L << 30;

    private record Part(String what, long bytes) {}

    private final List<Part> parts = new ArrayList<>();

    /** Adds a part, unless it takes nothing; returns this. */
    public MemoryNeed with(String what, long bytes) {
        if (bytes > 0) {
            parts.add(new Part(what, bytes));
        }
        return this;
    }

    public long bytes() {
        return parts.stream().mapToLong(Part::bytes).sum();
    }

    /** Whether the device has that much left. */
    public boolean fits(String device) {
        return bytes() <= Context.availableBytes(device);
    }

    /**
     * @param work that needs it, as "training"
     * @param less what would take less, as "a smaller model"
     * @throws HllmException with the arithmetic, where it does not fit
     */
    public void require(String device, String work, String less) {
        long available = Context.availableBytes(device);
        if (bytes() <= available) {
            return;
        }
        StringBuilder text = new StringBuilder(String.format(
                Locale.ROOT,
                "%s needs %s of memory, and %s are available on %s:",
                work,
                gib(bytes()),
                gib(available),
                device));
        for (Part part : parts) {
            text.append(String.format(Locale.ROOT, "%n%12s  %s", gib(part.bytes), part.what));
        }
        throw new HllmException(text + "\nLess is needed with " + less
                + ". Where the machine can give more than it says, --memory=SIZE says how much");
    }

    private static String gib(long bytes) {
        return String.format(Locale.ROOT, bytes < GIB / 100 ? "%.6f GiB" : "%.2f GiB", bytes / GIB);
    }
}
