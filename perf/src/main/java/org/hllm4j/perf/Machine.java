package org.hllm4j.perf;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.hllm4j.engine.Context;

/**
 * Where the numbers come from.
 *
 * @param load processes that wanted to run, on average over the minute before the start
 * @param commit of the checkout around the working directory, "+" when it was changed; "" when there is none
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
        String commit) {
    private static final List<String> EXTENSIONS =
            List.of("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16", "i8mm");

    static Machine here() {
        return new Machine(
                field("/proc/cpuinfo", "model name", System.getProperty("os.arch")),
                extensions(),
                Runtime.getRuntime().availableProcessors(),
                Context.threads(),
                Double.parseDouble("0" + field("/proc/meminfo", "MemTotal", "").replaceAll("\\D+", "")) * 1024 / 1e9,
                System.getProperty("os.name") + " " + System.getProperty("os.version"),
                Runtime.version().toString(),
                Context.buildInfo(),
                Double.parseDouble(read("/proc/loadavg", "0").split(" ")[0]),
                checkout());
    }

    /** Whether others compute here too, so that times mean little. */
    boolean busy() {
        return load > 0.3 * cores;
    }

    String text() {
        return String.format(
                Locale.ROOT,
                "%s (%s), %d cores, %d threads, %.1f GB, %s, JDK %s, %s, load %.2f%s%s",
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

    Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("cpu", cpu);
        map.put("isa", isa);
        map.put("cores", cores);
        map.put("threads", threads);
        map.put("memory_gb_total", memoryGb);
        map.put("os", os);
        map.put("jdk", jdk);
        map.put("library", library);
        map.put("load", load);
        map.put("commit", commit);
        return map;
    }

    private static String extensions() {
        Set<String> flags = Set.of(Arrays.stream(field("/proc/cpuinfo", "flags", field("/proc/cpuinfo", "Features", ""))
                        .split(" "))
                .distinct()
                .toArray(String[]::new));
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
