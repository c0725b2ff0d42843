package org.hllm4j.cli;

import java.nio.file.Path;
import org.hllm4j.data.Catalogue;
import org.hllm4j.run.RunFolder;
import picocli.CommandLine.Option;

/** A trained model. */
final class RunOption {
    @Option(
            names = "--run",
            required = true,
            paramLabel = "DIR",
            description = "The run folder that `hllm train --out DIR` left.")
    private Path folder;

    RunFolder run() {
        return new RunFolder(folder);
    }

    /** The catalogue with the texts that the model was trained on. */
    Catalogue catalogue(Path items) {
        return Catalogue.read(items, run().manifest().textKeys());
    }
}
