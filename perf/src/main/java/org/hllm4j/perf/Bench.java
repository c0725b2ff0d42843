package org.hllm4j.perf;

import java.io.PrintWriter;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.regex.Pattern;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.weights.PretrainedModel;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** The command {@code hllm bench}: what this machine reaches, against its own limits and against the PyTorch programs. */
@Command(
        name = "hllm bench",
        description =
                "Measures embedding, training, serving and single operations against the machine's limits and a peer.",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        exitCodeListHeading = "%nExit codes:%n",
        exitCodeList = {
            "0:done",
            "1:an error, a row that failed, or one whose output is not the peer's (MISMATCH)",
            "2:wrong usage"
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  hllm bench --quick",
            "  hllm bench --llm SmolLM2-135M --items movies/items.csv --items beauty/items.csv --out report.md",
            "  hllm bench --llm model.gguf --items items.csv --peer V/bin/python --peers peers --peer-model hf-model",
            "  hllm bench --only '^(roofline|gemm) '",
            "  hllm bench report --from perf/history.jsonl --out report.md"
        })
public final class Bench implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--quick", description = "Small sizes, under two minutes: a smoke test whose numbers mean little.")
    private boolean quick;

    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            description = "cpu; or a GPU, cuda or cuda-emulated: operations and random models at shapes of their own."
                    + " Default: ${DEFAULT-VALUE}.")
    private String device = "cpu";

    @Option(
            names = "--items",
            paramLabel = "FILE",
            description = "An items.csv, with interactions.csv beside it; several times. Default: invented items.")
    private List<Path> items = List.of();

    @Option(names = "--llm", paramLabel = "PATH", description = "The model. Default: random, of SmolLM2-135M's shape.")
    private Path llm;

    @Option(names = "--peer", paramLabel = "PYTHON", description = "An interpreter with torch and transformers.")
    private Path peer;

    @Option(names = "--peers", paramLabel = "DIR", description = "Folder of hf_hllm.py and torch_ops.py.")
    private Path peers;

    @Option(
            names = "--peer-model",
            paramLabel = "DIR",
            description = "The model as a Hugging Face folder, for hf_hllm.py; without it only torch_ops.py is run.")
    private Path peerModel;

    @Option(names = "--blas", paramLabel = "FILE", description = "A cblas_sgemm beside those in the usual places.")
    private List<Path> blas = List.of();

    @Option(names = "--whole", description = "Also whole catalogues: with a peer, half an hour or more.")
    private boolean whole;

    @Option(names = "--only", paramLabel = "REGEX", description = "Measure what matches: 'gemm', '^embed .*whole', ...")
    private Pattern only = Pattern.compile("");

    @Option(names = "--threads", paramLabel = "N", description = "Threads, ours and the peer's. Default: all cores.")
    private int threads;

    @Option(names = "--runs", paramLabel = "N", description = "Timed runs of a row at least. Default: 5, quick 2.")
    private Integer runs;

    @Option(names = "--seconds-per-row", paramLabel = "S", description = "Repetition. Default: 2, quick 0.05.")
    private Double seconds;

    @Option(names = "--jmh", description = "Also the seams between Java and native code, by JMH (half a minute).")
    private boolean jmh;

    @Option(names = "--out", paramLabel = "REPORT.md", description = "Write a report in Markdown, its plots beside it.")
    private Path out;

    @Option(
            names = "--history",
            paramLabel = "FILE",
            description = "JSON lines to append to. Default: ${DEFAULT-VALUE}.")
    private Path history = Path.of("perf", "history.jsonl");

    @Option(names = "--child", hidden = true, description = "Measures here what would have a process of its own.")
    private boolean child;

    private Bench() {}

    public static void main(String[] args) {
        System.setProperty("slf4j.internal.verbosity", System.getProperty("slf4j.internal.verbosity", "ERROR"));
        System.exit(run(new PrintWriter(System.out, true), new PrintWriter(System.err, true), args));
    }

    /** Runs a command line and returns its exit code. */
    static int run(PrintWriter out, PrintWriter err, String... args) {
        return new CommandLine(new Bench())
                .setOut(out)
                .setErr(err)
                .setUsageHelpWidth(100)
                .setOverwrittenOptionsAllowed(true) // the launcher gives defaults
                .setExecutionExceptionHandler((error, command, parsed) -> {
                    if (!(error instanceof HllmException)) {
                        throw error;
                    }
                    err.println("hllm bench: " + error.getMessage());
                    return 1;
                })
                .execute(args);
    }

    @Override
    public Integer call() {
        List<String> arguments = spec.commandLine().getParseResult().originalArgs();
        check(items.isEmpty() || llm != null, "--items needs --llm, for its tokenizer");
        check((peer == null) == (peers == null), "--peer and --peers belong together");
        check(peerModel == null || peer != null && llm != null, "--peer-model needs --peer, --peers and --llm");
        check(peerModel == null || !items.isEmpty(), "--peer-model needs --items: the peer embeds those");
        check(
                device.equals("cpu")
                        || items.isEmpty() && llm == null && peer == null && blas.isEmpty() && !whole && !jmh,
                "--device " + device + " invents items and weights: it goes with --quick, --only, --threads, --runs,"
                        + " --seconds-per-row, --out and --history alone");
        check(threads >= 0, "--threads must be at least 0");
        check(runs == null || runs >= 1, "--runs must be at least 1");
        check(seconds == null || seconds >= 0, "--seconds-per-row must be at least 0");
        Report.makeFolder(history); // before the long work
        if (out != null) {
            Report.makeFolder(out);
        }
        PrintWriter terminal = spec.commandLine().getOut();
        Context.threads(threads);
        Settings settings = new Settings(
                runs != null ? runs : quick ? 2 : 5,
                seconds != null ? seconds : quick ? 0.05 : 2,
                Context.threads(),
                quick,
                whole,
                child,
                arguments);
        Card card = device.equals("cpu") ? null : Card.of(device);
        Report.Run run = new Report.Run(
                Instant.now().truncatedTo(ChronoUnit.SECONDS).toString(),
                "hllm bench " + String.join(" ", arguments),
                Machine.here(card));
        terminal.println(run.machine().text());
        Rows rows = new Rows(only, terminal);
        if (card != null) {
            measure(card, settings, rows);
        } else {
            measure(settings, rows);
        }
        Report report = Report.of(run, rows.all());
        if (rows.all().isEmpty()) {
            throw new HllmException("--only " + only + " matches nothing");
        }
        if (card != null) {
            terminal.print(report.outcomes());
            terminal.flush();
        }
        report.append(history);
        if (out != null) {
            report.write(out);
        }
        return rows.all().stream().allMatch(Row::ok) ? 0 : 1;
    }

    private void measure(Card card, Settings settings, Rows rows) {
        try (Gpu gpu = new Gpu(device, card, settings, rows)) {
            gpu.peaks();
            List<GpuOps> operations = GpuOps.all(gpu);
            operations.forEach(GpuOps::measure);
            operations.getFirst().measureRest();
            new GpuModel(gpu).measure();
        }
    }

    private void measure(Settings settings, Rows rows) {
        try (Context context = Context.open("cpu")) {
            Roofline roofline = new Roofline(context, settings, Blas.find(blas, settings.threads()));
            Peer programs = peer == null ? null : new Peer(peer, peers, peerModel, settings.threads());
            try (Session session = new Session(context, settings, rows, roofline, llm, programs)) {
                measure(session, roofline, rows);
            }
        }
    }

    @Command(
            name = "report",
            description =
                    "Makes one report of the rows of a history; of a row measured several times on a processor, the last.",
            mixinStandardHelpOptions = true)
    int report(
            @Option(names = "--from", required = true, paramLabel = "FILE", description = "JSON lines of earlier runs.")
                    Path from,
            @Option(names = "--out", required = true, paramLabel = "REPORT.md", description = "The report.") Path to) {
        Report.makeFolder(to);
        Report.read(from).write(to);
        return 0;
    }

    private void measure(Session session, Roofline roofline, Rows rows) {
        roofline.bandwidthRows(rows);
        roofline.gemmRows(rows, "SmolLM2-135M", Session.SMOLLM2);
        if (!quick) {
            roofline.gemmRows(rows, "TinyLlama-1.1B", Session.TINYLLAMA);
            roofline.gemmRows(rows, "Baichuan2-7B", Session.BAICHUAN2);
        }
        List<Items> sets = sets(session);
        EmbedRows embed = new EmbedRows(session);
        if (session.hasHf() && !child) {
            embed.takeItemToken(sets);
        }
        new TrainRows(session).measure(sets.getFirst());
        embed.measure(sets);
        new ServeRows(session).measure(sets);
        session.release();
        new UserRows(session).measure();
        try (OpRows operations = new OpRows(session)) {
            operations.measure();
        }
        if (jmh) {
            Seams.measure(rows);
        }
    }

    private List<Items> sets(Session session) {
        if (items.isEmpty()) {
            return List.of(Items.invented(quick ? 200 : 2000, session.config.vocabSize(), 1));
        }
        List<Items> sets = new ArrayList<>();
        try (PretrainedModel pretrained = PretrainedModel.open(llm)) {
            for (Path file : items) {
                sets.add(Items.read(file, pretrained.tokenizerJson(), llm.toString()));
            }
        }
        return sets;
    }

    private void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new ParameterException(spec.commandLine(), otherwise);
        }
    }
}
