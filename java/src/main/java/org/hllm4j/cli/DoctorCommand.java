package org.hllm4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.run.RunFolder;
import org.hllm4j.text.ItemTokenizer;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "doctor",
        description = "Says what this machine has for hllm, what is missing, and how to get it.",
        exitCodeListHeading = "%nExit codes:%n",
        exitCodeList = {"0:all that is required is there", "1:something required is missing"},
        footer = {"  hllm doctor", "  hllm doctor --device cuda     fails where no GPU can be used, and says why"})
final class DoctorCommand extends Subcommand {
    private static final long GB = 1_000_000_000;

    /** The smallest tokenizer there is, to see whether its library loads. */
    private static final String TOKENIZER = """
        {"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,
         "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}\
        """;

    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            description = "What has to be there: cpu, cuda or cuda-emulated. Default: ${DEFAULT-VALUE}.")
    private String device = "cpu";

    @Mixin
    private JsonOption json;

    /**
     * @param required whether nothing works without it
     * @param fix what to do where it is missing
     */
    private record Check(String name, boolean ok, boolean required, String found, String fix) {
        String text() {
            String state = ok ? "ok" : required ? "MISSING" : "missing";
            return String.format("%-8s %-15s %s%s", state, name, found, ok ? "" : "\n" + " ".repeat(25) + "-> " + fix);
        }

        Map<String, Object> asMap() {
            Map<String, Object> map = new LinkedHashMap<>();
            map.put("name", name);
            map.put("ok", ok);
            map.put("required", required);
            map.put("found", found);
            map.put("fix", ok ? "" : fix);
            return map;
        }
    }

    @Override
    public Integer call() {
        List<Check> checks = new ArrayList<>(
                List.of(java(), nativeLibrary(), tokenizer(), memory(), disk(DemoFiles.defaultCache()), python()));
        checks.add(gpu("cuda", device.equals("cuda")));
        if (!device.equals("cpu") && !device.equals("cuda")) {
            checks.add(gpu(device, true));
        }
        checks.forEach(check -> out().println(check.text()));
        json.write(Map.of("checks", checks.stream().map(Check::asMap).toList()));
        return checks.stream().anyMatch(c -> c.required && !c.ok) ? Main.ERROR : Main.OK;
    }

    private static Check java() {
        boolean compiler = Files.isExecutable(Path.of(System.getProperty("java.home"), "bin", "javac"));
        return new Check(
                "Java",
                Runtime.version().feature() >= 25,
                true,
                Runtime.version() + " in " + System.getProperty("java.home") + (compiler ? "" : " (without javac)"),
                "install a JDK 25: apt-get install openjdk-25-jdk-headless, or Temurin 25");
    }

    private static Check nativeLibrary() {
        try (Context context = Context.open("cpu")) {
            String where = System.getProperty("hllm.library", "in the jar, or in the checkout's build folder");
            return new Check(
                    "native library",
                    true,
                    true,
                    Context.buildInfo() + "; " + context.device() + ", " + Context.threads() + " threads; " + where,
                    "");
        } catch (HllmException e) {
            return new Check(
                    "native library", false, true, e.getMessage(), "build it: ./hllm from a checkout does, or cmake");
        }
    }

    private static Check tokenizer() {
        try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(TOKENIZER, "doctor")) {
            return new Check("tokenizer", tokenizer.encode("a").length == 1, true, "its native library loads", "");
        } catch (HllmException e) {
            return new Check(
                    "tokenizer",
                    false,
                    true,
                    e.getMessage(),
                    "it unpacks into ~/.djl.ai: make the home folder writable, or set DJL_CACHE_DIR");
        }
    }

    private static Check memory() {
        long available = availableMemory();
        return new Check(
                "memory",
                available < 0 || available >= 2 * GB,
                false,
                (available < 0 ? "unknown" : gigabytes(available) + " available") + ", of which Java may use "
                        + gigabytes(Runtime.getRuntime().maxMemory()),
                "quickstart needs about 2 GB; hllm train --plan says what a training needs");
    }

    /** Bytes, or -1 where the system does not say. */
    private static long availableMemory() {
        try {
            return Files.readAllLines(Path.of("/proc/meminfo")).stream()
                    .filter(line -> line.startsWith("MemAvailable:"))
                    .mapToLong(line -> 1024 * Long.parseLong(line.replaceAll("\\D+", "")))
                    .findFirst()
                    .orElse(-1);
        } catch (IOException e) {
            return -1;
        }
    }

    private static Check disk(Path cache) {
        Path existing = cache;
        while (!Files.exists(existing)) {
            existing = existing.getParent();
        }
        long free = new RunFolder(existing).freeBytes();
        return new Check(
                "disk",
                free >= 3 * GB,
                false,
                gigabytes(free) + " free for " + cache,
                "quickstart needs about 3 GB: free some, or name another place with --cache and --dir");
    }

    private static Check python() {
        List<String> missing = new ArrayList<>();
        for (String module : List.of("venv", "ensurepip")) {
            if (DemoFiles.runQuietly(List.of("python3", "-c", "import " + module)) != 0) {
                missing.add(module);
            }
        }
        return new Check(
                "python3 venv",
                missing.isEmpty(),
                false,
                (missing.isEmpty() ? "there" : "python3 with venv is not there")
                        + "; only quickstart uses it, to fetch its " + "data",
                "apt-get install python3-venv; or give quickstart your own --items, --interactions and --llm");
    }

    private static Check gpu(String device, boolean required) {
        String name = device.equals("cuda") ? "CUDA" : device;
        try {
            return new Check(name, true, required, Context.deviceInfo(device), "");
        } catch (HllmException e) {
            return new Check(
                    name,
                    false,
                    required,
                    e.getMessage(),
                    required
                            ? "it needs an NVIDIA GPU of compute capability 8.0 or more, its driver for CUDA 13 "
                                    + "(nvidia-smi shows both), and the plugin: cmake -DHLLM_CUDA=ON builds "
                                    + "libhllm_cuda.so, which belongs beside libhllm.so or into $HLLM_PLUGIN_PATH"
                            : "not needed: everything runs on the CPU; --device cuda says what it takes");
        }
    }

    private static String gigabytes(long bytes) {
        return String.format("%.1f GB", bytes / (double) GB);
    }
}
