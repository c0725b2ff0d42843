package org.hllm4j.cli;

import java.io.PrintWriter;
import org.hllm4j.HllmException;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ScopeType;

/** The command {@code hllm}: results on standard output, progress and errors on standard error. */
@Command(
        name = "hllm",
        description = "HLLM recommendation: item texts and interactions to a trained recommender.",
        synopsisSubcommandLabel = "COMMAND",
        mixinStandardHelpOptions = true,
        versionProvider = Main.Version.class,
        exitCodeListHeading = "%nExit codes:%n",
        exitCodeList = {
            "0:done",
            "1:an error; one line on standard error says which, --verbose adds where",
            "2:wrong usage",
            "130:interrupted; the same command continues"
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  hllm quickstart",
            "  hllm train --llm model/ --items items.csv --interactions interactions.csv --out run",
            "  hllm COMMAND --help",
            "From a checkout, ./hllm test runs all tests and ./hllm bench the benchmark."
        },
        subcommands = {
            QuickstartCommand.class,
            TrainCommand.class,
            TrainRankerCommand.class,
            EvaluateCommand.class,
            CompareCommand.class,
            RecommendCommand.class,
            ServeCommand.class,
            EmbedCommand.class,
            ExportCommand.class,
            DoctorCommand.class,
            RandomModelCommand.class
        })
public final class Main {
    static final int OK = 0;
    static final int ERROR = 1;
    static final int USAGE = 2;
    static final int INTERRUPTED = 130;

    @Option(names = "--verbose", scope = ScopeType.INHERIT, description = "Print the stack trace of an error.")
    private boolean verbose;

    private Main() {}

    public static void main(String[] args) {
        // The tokenizer's library logs through SLF4J, which else complains that nobody listens.
        System.setProperty("slf4j.internal.verbosity", System.getProperty("slf4j.internal.verbosity", "ERROR"));
        System.exit(run(new PrintWriter(System.out, true), new PrintWriter(System.err, true), args));
    }

    /** Runs a command line and returns its exit code. */
    static int run(PrintWriter out, PrintWriter err, String... args) {
        Main main = new Main();
        CommandLine commandLine = new CommandLine(main)
                .setOut(out)
                .setErr(err)
                .setCaseInsensitiveEnumValuesAllowed(true)
                .setUsageHelpWidth(100)
                .setExpandAtFiles(false)
                .setParameterExceptionHandler(Main::wrongUsage)
                .setExecutionExceptionHandler((error, command, parsed) -> main.failed(error, err));
        try {
            return commandLine.execute(args.length == 0 ? new String[] {"--help"} : args);
        } catch (OutOfMemoryError e) {
            return main.failed(
                    new HllmException(
                            "the Java heap is full (" + Runtime.getRuntime().maxMemory() / 1_000_000
                                    + " MB); allow more with JAVA_TOOL_OPTIONS=-Xmx8g",
                            e),
                    err);
        }
    }

    private static int wrongUsage(ParameterException error, String[] args) {
        CommandLine command = error.getCommandLine();
        String name = command.getCommandSpec().qualifiedName();
        command.getErr().println(name + ": " + error.getMessage());
        CommandLine.UnmatchedArgumentException.printSuggestions(error, command.getErr());
        command.getErr().println("See " + name + " --help");
        return USAGE;
    }

    private int failed(Throwable error, PrintWriter err) {
        err.println("hllm: "
                + (error instanceof HllmException
                        ? error.getMessage()
                        : "an error that should not happen (please report it, with --verbose): " + error));
        if (verbose) {
            error.printStackTrace(err);
        }
        return ERROR;
    }

    /** What the jar says of itself. */
    static final class Version implements IVersionProvider {
        @Override
        public String[] getVersion() {
            return new String[] {"hllm4j " + number()};
        }

        static String number() {
            String version = Main.class.getPackage().getImplementationVersion();
            return version == null ? "(from class files)" : version;
        }
    }
}
