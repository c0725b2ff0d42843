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
            "  hllm bench --only '^(roofline|gemm) '"
        })
public final class Bench implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--quick", description = "Small sizes, under two minutes: a smoke test whose numbers mean little.")
    private boolean quick;

    @Option(
            names = "--items",
            paramLabel = "FILE",
            description = "An items.csv; may be given several times. Needs --llm. "
                    + "interactions.csv beside it is evaluated. Default: invented items.")
    private List<Path> items = List.of();

    @Option(
            names = "--llm",
            paramLabel = "PATH",
            description =
                    "Hugging Face folder or GGUF file. Default: random weights " + "in the shape of SmolLM2-135M.")
    private Path llm;

    @Option(
            names = "--peer",
            paramLabel = "PYTHON",
            description =
                    "An interpreter with torch and transformers, to run the " + "programs of --peers beside ours.")
    private Path peer;

    @Option(names = "--peers", paramLabel = "DIR", description = "Folder of hf_hllm.py and torch_ops.py.")
    private Path peers;

    @Option(
            names = "--peer-model",
            paramLabel = "DIR",
            description = "Hugging Face folder of the same model as --llm, for "
                    + "hf_hllm.py; without it only torch_ops.py is run.")
    private Path peerModel;

    @Option(
            names = "--blas",
            paramLabel = "FILE",
            description = "A library with cblas_sgemm to compare with, beside those "
                    + "found in the usual places; may be given several times.")
    private List<Path> blas = List.of();

    @Option(names = "--only", paramLabel = "REGEX", description = "Measure what matches: 'gemm', '^embed .*whole', ...")
    private Pattern only = Pattern.compile("");

    @Option(
            names = "--threads",
            paramLabel = "N",
            description = "Compute threads, ours and the peer's. Default: all cores.")
    private int threads;

    @Option(names = "--runs", paramLabel = "N", description = "Timed runs of a row at least. Default: 5, quick 2.")
    private Integer runs;

    @Option(
            names = "--seconds-per-row",
            paramLabel = "S",
            description = "Time a row is repeated for. Default: 2, quick 0.05.")
    private Double seconds;

    @Option(names = "--jmh", description = "Also the seams between Java and native code, by JMH (half a minute).")
    private boolean jmh;

    @Option(names = "--out", paramLabel = "REPORT.md", description = "Write a report in Markdown, its plots beside it.")
    private Path out;

    @Option(
            names = "--history",
            paramLabel = "FILE",
            description = "JSON lines that are appended to. Default: " + "${DEFAULT-VALUE}.")
    private Path history = Path.of("perf", "history.jsonl");

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
        check(items.isEmpty() || llm != null, "--items needs --llm, for its tokenizer");
        check((peer == null) == (peers == null), "--peer and --peers belong together");
        check(peerModel == null || peer != null && llm != null, "--peer-model needs --peer, --peers and --llm");
        check(peerModel == null || !items.isEmpty(), "--peer-model needs --items: the peer embeds those");
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
                quick);
        Instant start = Instant.now().truncatedTo(ChronoUnit.SECONDS);
        Machine machine = Machine.here();
        terminal.println(machine.text());
        Rows rows = new Rows(only, terminal);
        try (Context context = Context.open("cpu")) {
            Roofline roofline = new Roofline(context, settings, Blas.find(blas, settings.threads()));
            Peer programs = peer == null ? null : new Peer(peer, peers, peerModel, settings.threads());
            try (Session session = new Session(context, settings, rows, roofline, llm, programs)) {
                measure(session, roofline, rows);
            }
        }
        Report report = new Report(machine, start, command(), rows.all());
        if (rows.all().isEmpty()) {
            throw new HllmException("--only " + only + " matches nothing");
        }
        report.append(history);
        if (out != null) {
            report.write(out);
        }
        return rows.all().stream().allMatch(Row::ok) ? 0 : 1;
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
        if (session.hasHf()) {
            embed.takeItemToken(sets);
        }
        new TrainRows(session).measure(sets.getFirst());
        embed.measure(sets);
        new ServeRows(session).measure(sets);
        session.release();
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

    private String command() {
        return "hllm bench "
                + String.join(" ", spec.commandLine().getParseResult().originalArgs());
    }
}
