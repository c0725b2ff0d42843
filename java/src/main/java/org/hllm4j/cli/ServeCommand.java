package org.hllm4j.cli;

import java.net.InetSocketAddress;
import java.nio.file.Path;
import java.time.Duration;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.DType;
import org.hllm4j.http.HllmServer;
import org.hllm4j.http.Limits;
import org.hllm4j.http.Metrics;
import org.hllm4j.run.RunFolder;
import org.hllm4j.serve.Engine;
import org.hllm4j.serve.EventLog;
import org.hllm4j.serve.Fsync;
import org.hllm4j.serve.ItemChanges;
import org.hllm4j.serve.Snapshot;
import org.hllm4j.serve.UserFeatureCache;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "serve",
        description = "Answers over HTTP: takes users' events, recommends and ranks, and shows a page for trying it.",
        footer = {
            "  hllm serve --run run --items items.csv",
            "  HLLM_TOKEN=secret hllm serve --run run --items items.csv --host 0.0.0.0 --log /var/lib/hllm/events.log",
            "Then: http://localhost:8080/, and http://localhost:8080/openapi.yaml for programs."
        })
final class ServeCommand extends Subcommand {
    private static final int BRANCHES = 512;

    /** When the event log goes to the disk. */
    enum Sync {
        ALWAYS,
        INTERVAL,
        NEVER
    }

    @Mixin
    private RunOption run;

    @Mixin
    private ItemOptions items;

    @Option(
            names = "--host",
            paramLabel = "HOST",
            description =
                    "Where to listen; an address that other machines reach takes a token. Default: ${DEFAULT-VALUE}.")
    private String host = "127.0.0.1";

    @Option(names = "--port", paramLabel = "N", description = "0: any that is free. Default: ${DEFAULT-VALUE}.")
    private int port = 8080;

    @Option(
            names = "--token",
            paramLabel = "TOKEN",
            defaultValue = "${env:HLLM_TOKEN}",
            description = "What requests must carry, as `Authorization: Bearer TOKEN`. Default: the environment's"
                    + " HLLM_TOKEN, which other users of the machine cannot see; none.")
    private String token;

    @Option(
            names = "--log",
            paramLabel = "FILE",
            description =
                    "Where users' events are kept, and in FILE.items the items that are added and removed; they are made if they are not"
                            + " there. Default: ${DEFAULT-VALUE}.")
    private Path log = Path.of("events.log");

    @Option(
            names = "--fsync",
            paramLabel = "WHEN",
            description = "When the disk has to keep events: always (before they are acknowledged; nothing is lost),"
                    + " interval, or never (the system decides). Default: always.")
    private Sync fsync = Sync.ALWAYS;

    @Option(
            names = "--fsync-ms",
            paramLabel = "MS",
            description = "The interval, whose events a power failure takes. Default: ${DEFAULT-VALUE}.")
    private long fsyncMillis = 1000;

    @Option(
            names = "--add-items",
            paramLabel = "WHEN",
            description = "Whether items can be added by text while it serves, for which the Item LLM stays in memory:"
                    + " yes, no, or auto, where both sides fit. Default: auto.")
    private Snapshot.AddItems addItems = Snapshot.AddItems.AUTO;

    @Option(
            names = "--cache-bytes",
            paramLabel = "SIZE",
            converter = Size.class,
            description = "Memory for users' keys and values, as 512m or 8g. Default: ${DEFAULT-VALUE}.")
    private long cacheBytes = 1L << 30;

    @Option(
            names = "--cache-dtype",
            paramLabel = "TYPE",
            description =
                    "Of keys and values: f32, or bf16 for twice the users at slightly other scores. Default: what the"
                            + " device computes in.")
    private DType cacheType;

    @Option(
            names = "--slack",
            paramLabel = "N",
            description = "Events beyond the model's max history that are kept before the last ones are computed anew."
                    + " Default: 16, at most max history.")
    private Integer slack;

    @Option(names = "--batch", paramLabel = "N", description = "Requests computed together. Default: ${DEFAULT-VALUE}.")
    private int batch = 64;

    @Option(
            names = "--batch-ms",
            paramLabel = "MS",
            description = "How long a request waits for others. Default: ${DEFAULT-VALUE}.")
    private double batchMillis = 2;

    @Option(
            names = "--queue",
            paramLabel = "N",
            description = "Requests that may wait; those beyond are told to come again. Default: ${DEFAULT-VALUE}.")
    private int queue = 1024;

    @Option(
            names = "--timeout-ms",
            paramLabel = "MS",
            description = "Until a request is given up. Default: ${DEFAULT-VALUE}.")
    private long timeoutMillis = Limits.DEFAULTS.time().toMillis();

    @Mixin
    private DeviceOptions device;

    private Path runNow;
    private Path itemsNow;

    @Override
    public Integer call() {
        HllmServer.Options options = options();
        device.apply();
        Metrics metrics = new Metrics();
        try (Progress progress = progress();
                EventLog events = EventLog.open(log, fsync());
                ItemChanges changes = ItemChanges.open(log.resolveSibling(log.getFileName() + ".items"), fsync())) {
            // Meanwhile Ctrl-C just ends the process.
            Snapshot first = open(run.run().path(), items.items, changes, progress);
            try (Interruption interruption = new Interruption("requests under way are answered");
                    events; // closed before the interruption, which ends the process
                    changes;
                    Engine engine = engine(first, changes, metrics);
                    HllmServer server = new HllmServer(
                            options,
                            engine,
                            events,
                            metrics,
                            (folder, file) -> open(folder, file, changes, progress))) {
                out().println("Listening on http://" + shown(server.address()) + "/ with "
                        + engine.snapshot().items() + " items and " + events.events() + " events; Ctrl-C stops");
                while (!interruption.requested()) {
                    Thread.sleep(100);
                }
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        return Main.OK;
    }

    private HllmServer.Options options() {
        if (port < 0 || port > 65535) {
            throw wrongUsage("--port is " + port + ", expected 0 to 65535");
        }
        if (slack != null && slack < 0) {
            throw wrongUsage("--slack is " + slack + ", expected at least 0");
        }
        if (fsyncMillis < 1) {
            throw wrongUsage("--fsync-ms is " + fsyncMillis + ", expected at least 1");
        }
        if (cacheType == DType.I32) {
            throw wrongUsage("--cache-dtype is i32, expected f32 or bf16");
        }
        if (batchMillis < 0 || timeoutMillis < 1 || queue < 1 || batch < 1) {
            throw wrongUsage("--batch-ms is " + batchMillis + ", --timeout-ms " + timeoutMillis + ", --queue " + queue
                    + ", --batch " + batch + "; expected at least 0, 1, 1 and 1");
        }
        InetSocketAddress address = new InetSocketAddress(host, port);
        boolean anybody = address.isUnresolved() || !address.getAddress().isLoopbackAddress();
        if (anybody && (token == null || token.isEmpty())) {
            throw wrongUsage(
                    "--host is " + host + ", which other machines may reach: expected --token=TOKEN, or HLLM_TOKEN"
                            + " in the environment");
        }
        Limits limits = Limits.DEFAULTS.withRequests(2 * queue + batch).withTime(Duration.ofMillis(timeoutMillis));
        return new HllmServer.Options(address, token == null || token.isEmpty() ? null : token, limits);
    }

    private Engine engine(Snapshot first, ItemChanges changes, Metrics metrics) {
        DType type = cacheType == null ? device.activations() : cacheType;
        return new Engine(
                first,
                changes,
                new Engine.Options(
                        new UserFeatureCache.Options(cacheBytes, slack, BRANCHES, type),
                        queue,
                        batch,
                        Duration.ofNanos((long) (batchMillis * 1e6)),
                        metrics));
    }

    /** Opens a run with a catalogue; null: the ones that were opened last. One at a time. */
    private synchronized Snapshot open(Path folder, Path file, ItemChanges changes, Progress progress) {
        RunFolder next = new RunFolder(folder == null ? runNow : folder);
        next.requireTexts("to serve: items could not be added");
        Path nextItems = file == null ? itemsNow : file;
        Catalogue catalogue = Catalogue.read(nextItems, next.manifest().textKeys());
        Snapshot snapshot = Snapshot.open(
                next,
                catalogue,
                new Snapshot.Options(device.device(), device.storage(), addItems, cacheBytes),
                progress.counter("items", "items", catalogue.size()));
        try {
            snapshot.apply(changes); // here, as the engine answers meanwhile
        } catch (RuntimeException e) {
            snapshot.close();
            throw e;
        }
        runNow = next.path();
        itemsNow = nextItems;
        return snapshot;
    }

    private Fsync fsync() {
        return switch (fsync) {
            case ALWAYS -> new Fsync.Always();
            case INTERVAL -> new Fsync.Every(Duration.ofMillis(fsyncMillis));
            case NEVER -> new Fsync.Never();
        };
    }

    private static String shown(InetSocketAddress address) {
        String name = address.getAddress().getHostAddress();
        return (name.contains(":") ? "[" + name + "]" : name) + ":" + address.getPort();
    }
}
