package org.hllm4j.perf;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.hllm4j.engine.Context;

/**
 * Where the numbers come from.
 *
 * @param load cores that other processes kept busy in the second before the start
 * @param commit of the checkout around the working directory, "+" when it was changed; "" when there is none
 * @param gpu the card and its driver; null where the processor is measured
 */
record Machine(
        String cpu,
        String isa,
        int cores,
        int threads,
        double memoryGb,
        String os,
        String jdk,
        String library,
        double load,
        String commit,
        String gpu) {
    private static final List<String> EXTENSIONS =
            List.of("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16", "i8mm");

    /** @param card null: the processor is measured */
    static Machine here(Card card) {
        return new Machine(
                field("/proc/cpuinfo", "model name", System.getProperty("os.arch")),
                extensions(),
                Runtime.getRuntime().availableProcessors(),
                Context.threads(),
                Double.parseDouble("0" + field("/proc/meminfo", "MemTotal", "").replaceAll("\\D+", "")) * 1024 / 1e9,
                System.getProperty("os.name") + " " + System.getProperty("os.version"),
                Runtime.version().toString(),
                Context.buildInfo(),
                othersLoad(),
                checkout(),
                card == null ? null : card.text());
    }

    /** What rows are of: the card, or the processor. */
    String processor() {
        return gpu == null ? cpu : gpu;
    }

    /** Whether others compute here too, so that times mean little. */
    boolean busy() {
        return load > 0.1 * cores;
    }

    String text() {
        return Report.text(
                "%s%s (%s), %d cores, %d threads, %.1f GB, %s, JDK %s, %s, load %.2f%s%s",
                gpu == null ? "" : gpu + "; ",
                cpu,
                isa,
                cores,
                threads,
                memoryGb,
                os,
                jdk,
                library,
                load,
                busy() ? " (BUSY: the times below mean little)" : "",
                commit.isEmpty() ? "" : ", commit " + commit);
    }

    /** A load average would count the run before this one, and this one's own start. */
    private static double othersLoad() {
        var system = ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);
        system.getCpuLoad();
        system.getProcessCpuLoad(); // both tell of the time since they were last asked
        try {
            Thread.sleep(1000);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        return Math.max(0, system.getCpuLoad() - system.getProcessCpuLoad()) * system.getAvailableProcessors();
    }

    private static String extensions() {
        String all = field("/proc/cpuinfo", "flags", field("/proc/cpuinfo", "Features", ""));
        List<String> flags = List.of(all.split(" "));
        return String.join(" ", EXTENSIONS.stream().filter(flags::contains).toList());
    }

    private static String field(String file, String key, String otherwise) {
        return read(file, "")
                .lines()
                .filter(line -> line.startsWith(key))
                .map(line -> line.substring(line.indexOf(':') + 1).strip())
                .findFirst()
                .orElse(otherwise);
    }

    private static String read(String file, String otherwise) {
        try {
            return Files.readString(Path.of(file));
        } catch (IOException e) {
            return otherwise;
        }
    }

    private static String checkout() {
        try {
            Process git = new ProcessBuilder("git", "describe", "--always", "--dirty=+", "--abbrev=10")
                    .redirectError(ProcessBuilder.Redirect.DISCARD)
                    .start();
            return new String(git.getInputStream().readAllBytes()).strip();
        } catch (IOException e) {
            return "";
        }
    }
}
