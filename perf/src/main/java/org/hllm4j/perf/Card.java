package org.hllm4j.perf;

import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.engine.Context;

/**
 * A GPU as its driver describes it.
 *
 * @param text the card, its driver, highest clocks and power limit, and what the plugin says of it
 * @param datasheet FLOP/s of dense bf16 products that its maker gives, the base of MFU; null for other cards than these
 */
record Card(String text, Double datasheet) {
    private static final Map<String, Double> TERAFLOPS = new LinkedHashMap<>(); // the first whose words are in the name

    static {
        TERAFLOPS.put("H100 PCIe", 756.0);
        TERAFLOPS.put("H100 NVL", 835.0);
        TERAFLOPS.put("H100", 989.0);
        TERAFLOPS.put("H200", 989.0);
        TERAFLOPS.put("A100", 312.0);
    }

    static Card of(String device) {
        String info = Context.deviceInfo(device);
        String driver = smi("name,driver_version,clocks.max.sm,clocks.max.memory,power.limit");
        Double teraflops = TERAFLOPS.entrySet().stream()
                .filter(entry -> driver.contains(entry.getKey()))
                .map(Map.Entry::getValue)
                .findFirst()
                .orElse(null);
        return new Card(driver.isEmpty() ? info : driver + "; " + info, teraflops == null ? null : 1e12 * teraflops);
    }

    /** Clocks of SMs and memory, power and temperature now: to be asked right after the work; "" without a card. */
    static String clocks() {
        return smi("clocks.sm,clocks.mem,power.draw,temperature.gpu");
    }

    /** What nvidia-smi says of the first card, "" where there is none. */
    private static String smi(String fields) {
        try {
            Process process = new ProcessBuilder(
                            "nvidia-smi", "--id=0", "--query-gpu=" + fields, "--format=csv,noheader")
                    .redirectError(ProcessBuilder.Redirect.DISCARD)
                    .start();
            return new String(process.getInputStream().readAllBytes()).strip();
        } catch (IOException e) {
            return "";
        }
    }
}
