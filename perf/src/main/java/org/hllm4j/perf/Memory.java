package org.hllm4j.perf;

import java.io.IOException;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;

/** Resident memory of a process, as Linux counts it. */
final class Memory {
    private static final Path SELF = Path.of("/proc/self");

    private Memory() {}

    /** 10^9 bytes that are resident at most while {@code work} runs, beyond those before it; null where Linux keeps it. */
    static Double extraGb(Runnable work) {
        boolean known = resetPeak();
        double before = gb(SELF, "VmRSS:");
        work.run();
        return known ? Double.valueOf(Math.max(0, peakGb() - before)) : null;
    }

    /** Makes {@link #peakGb()} begin anew, if this process may. */
    static boolean resetPeak() {
        System.gc(); // what earlier rows left behind is not this one's, nor what the C library keeps for later
        trim();
        try {
            Files.writeString(SELF.resolve("clear_refs"), "5");
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    private static void trim() {
        Optional<MemorySegment> trim = Linker.nativeLinker().defaultLookup().find("malloc_trim"); // of glibc only
        try {
            if (trim.isPresent()) {
                int released = (int) Linker.nativeLinker()
                        .downcallHandle(trim.get(), FunctionDescriptor.of(ValueLayout.JAVA_INT, ValueLayout.JAVA_LONG))
                        .invokeExact(0L);
                assert released >= 0;
            }
        } catch (Throwable e) {
            throw new IllegalStateException("malloc_trim", e);
        }
    }

    static double peakGb() {
        return gb(SELF, "VmHWM:");
    }

    /** Peak of another process; 0 once it is gone. */
    static double peakGb(long pid) {
        return gb(Path.of("/proc", Long.toString(pid)), "VmHWM:");
    }

    private static double gb(Path process, String key) {
        try {
            return Files.readAllLines(process.resolve("status")).stream()
                    .filter(line -> line.startsWith(key))
                    .mapToDouble(line -> 1024 * Double.parseDouble(line.replaceAll("\\D+", "")) / 1e9)
                    .findFirst()
                    .orElse(0);
        } catch (IOException e) {
            return 0;
        }
    }
}
