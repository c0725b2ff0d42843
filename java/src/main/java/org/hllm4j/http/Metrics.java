package org.hllm4j.http;

import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.atomic.LongAdder;
import org.hllm4j.serve.Engine;
import org.hllm4j.serve.EventLog;
import org.hllm4j.serve.HistorySource;

/** What a server counts, in Prometheus' text format. Hears of the engine's answers as its listener. Any thread. */
public final class Metrics implements Engine.Listener {
    private final Map<String, LongAdder> requests = new ConcurrentSkipListMap<>(); // by labels
    private final Map<String, Histogram> requestSeconds = new ConcurrentSkipListMap<>();
    private final Map<String, Histogram> queueSeconds = new ConcurrentSkipListMap<>();
    private final Map<String, Histogram> batchSeconds = new ConcurrentSkipListMap<>();
    private final Histogram batchSize = new Histogram(1, 2, 4, 8, 16, 32, 64, 128, 256);

    @Override
    public void answered(String operation, long waited, long computed, int batch) {
        String labels = "operation=\"" + operation + "\"";
        queueSeconds.computeIfAbsent(labels, l -> Histogram.ofSeconds()).add(waited / 1e9);
        batchSeconds.computeIfAbsent(labels, l -> Histogram.ofSeconds()).add(computed / 1e9);
        batchSize.add(batch);
    }

    /** @param route or "none"; not the path, of which there are as many as users */
    void replied(String route, int status, long nanos) {
        String labels = "route=\"" + route + "\"";
        requests.computeIfAbsent(labels + ",status=\"" + status + "\"", l -> new LongAdder())
                .increment();
        requestSeconds.computeIfAbsent(labels, l -> Histogram.ofSeconds()).add(nanos / 1e9);
    }

    String text(Engine engine, HistorySource source) {
        StringBuilder out = new StringBuilder();
        head(out, "hllm_requests_total", "counter", "HTTP requests by route and status");
        requests.forEach((labels, count) -> out.append("hllm_requests_total{" + labels + "} " + count.sum() + "\n"));
        histograms(out, "hllm_request_seconds", "time from a request's head to its answer", requestSeconds);
        histograms(out, "hllm_queue_seconds", "time of a question in the engine's queue", queueSeconds);
        histograms(out, "hllm_batch_seconds", "time the engine took for the batch of a question", batchSeconds);
        histograms(out, "hllm_batch_size", "questions in the batch of a question", Map.of("", batchSize));

        Engine.Stats stats = engine.stats();
        number(out, "hllm_queue_waiting", "gauge", "questions in the queue", stats.waiting());
        number(out, "hllm_answered_total", "counter", "questions answered", stats.answered());
        number(out, "hllm_failed_total", "counter", "questions that ended with an error", stats.failed());
        number(out, "hllm_busy_total", "counter", "questions refused as the queue was full", stats.busy());
        number(out, "hllm_generations_total", "counter", "models since the start", stats.generations());
        number(
                out,
                "hllm_items",
                "gauge",
                "items that answers may hold",
                engine.snapshot().items());
        String hits = "questions whose user had keys and values in the cache";
        number(out, "hllm_cache_hits_total", "counter", hits, stats.cache().hits());
        number(
                out,
                "hllm_cache_misses_total",
                "counter",
                "questions whose user had none",
                stats.cache().misses());
        String evictions = "users whose pages others got";
        number(
                out,
                "hllm_cache_evictions_total",
                "counter",
                evictions,
                stats.cache().evictions());
        number(
                out,
                "hllm_cache_pages_used",
                "gauge",
                "pages in use",
                stats.cache().pagesUsed());
        number(out, "hllm_cache_pages", "gauge", "pages in all", stats.cache().pages());
        String computed = "positions of the User LLM that were computed";
        number(
                out,
                "hllm_positions_computed_total",
                "counter",
                computed,
                stats.cache().computed());
        String needed = "positions that it would have taken without a cache";
        number(
                out,
                "hllm_positions_needed_total",
                "counter",
                needed,
                stats.cache().needed());
        String bytes = "memory of models, item vectors, keys and values on the device";
        number(out, "hllm_device_bytes", "gauge", bytes, stats.deviceBytes());
        Runtime java = Runtime.getRuntime();
        number(out, "hllm_heap_bytes", "gauge", "Java's heap in use", java.totalMemory() - java.freeMemory());
        if (source instanceof EventLog log) {
            number(out, "hllm_log_events", "gauge", "events in the log", log.events());
            number(out, "hllm_log_syncs_total", "counter", "times that the disk was made to keep them", log.syncs());
        }
        return out.toString();
    }

    private static void head(StringBuilder out, String name, String type, String help) {
        out.append("# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n");
    }

    private static void number(StringBuilder out, String name, String type, String help, long value) {
        head(out, name, type, help);
        out.append(name + " " + value + "\n");
    }

    private static void histograms(StringBuilder out, String name, String help, Map<String, Histogram> byLabels) {
        head(out, name, "histogram", help);
        byLabels.forEach((labels, histogram) -> histogram.write(out, name, labels));
    }
}
