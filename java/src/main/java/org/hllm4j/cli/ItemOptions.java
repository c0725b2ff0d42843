package org.hllm4j.cli;

import java.nio.file.Path;
import picocli.CommandLine.Option;

/** The catalogue. */
final class ItemOptions {
    @Option(
            names = "--items",
            required = true,
            paramLabel = "FILE",
            description = "items.csv, plain or .gz: a header with item_id first, then text columns.")
    Path items;
}
