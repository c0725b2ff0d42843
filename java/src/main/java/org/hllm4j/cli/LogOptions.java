package org.hllm4j.cli;

import java.nio.file.Path;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.MissingText;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** The interaction log. */
final class LogOptions {
    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(
            names = "--interactions",
            paramLabel = "FILE",
            description = "interactions.csv, plain or .gz: a header with item_id, user_id and timestamp.")
    Path interactions;

    @Option(
            names = "--missing-text",
            paramLabel = "POLICY",
            description = "What happens to an item of the log that is not in items.csv: error, or allow (it takes part"
                    + " without text). Default: error.")
    MissingText missing = MissingText.ERROR;

    Path required() {
        if (interactions == null) {
            throw new ParameterException(spec.commandLine(), "Missing required option: '--interactions=FILE'");
        }
        return interactions;
    }

    Interactions read(Catalogue catalogue) {
        return Interactions.read(required(), catalogue, missing);
    }
}
