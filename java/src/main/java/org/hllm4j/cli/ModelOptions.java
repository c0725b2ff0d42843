package org.hllm4j.cli;

import java.util.List;
import org.hllm4j.run.IdStart;
import org.hllm4j.run.ModelStart;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Which model, and the shape of those that know items by their ids. */
final class ModelOptions {
    /** Options that a model without item texts has no use for. */
    private static final List<String> OF_TEXTS = List.of(
            "--item-llm",
            "--item-init",
            "--item-layers",
            "--freeze",
            "--item-lora",
            "--user-lora",
            "--lora-alpha",
            "--pooling",
            "--max-text-length");

    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(
            names = "--model",
            paramLabel = "KIND",
            description = "What is trained: hllm (item texts through an LLM), or a baseline to compare it with: sasrec"
                    + " (a vector per item id and a small transformer), llm-id (a vector per item id into a User LLM),"
                    + " popularity. Default: hllm.")
    ModelKind kind = ModelKind.HLLM;

    @Option(
            names = "--id-width",
            paramLabel = "N",
            description = "Numbers of an item id's vector. Default: ${DEFAULT-VALUE}.")
    private int idWidth = IdStart.WIDTH;

    @Option(names = "--heads", paramLabel = "N", description = "Heads of a sasrec. Default: ${DEFAULT-VALUE}.")
    private int heads = IdStart.HEADS;

    /** The start of the chosen kind; options that have no meaning for it are refused. */
    ModelStart start(StartOptions start, long seed) {
        return switch (kind) {
            case HLLM -> {
                refuse(List.of("--id-width", "--heads"));
                yield start.start(seed);
            }
            case SASREC -> {
                refuse(OF_TEXTS);
                refuse(List.of("--llm", "--user-llm", "--user-init"));
                requirePositive("--id-width", idWidth);
                if (heads < 1 || idWidth % heads != 0) {
                    throw new ParameterException(
                            spec.commandLine(),
                            "--heads is " + heads + ", which does not divide --id-width " + idWidth);
                }
                yield start.sasrec(idWidth, heads, seed);
            }
            case LLM_ID -> {
                refuse(OF_TEXTS);
                refuse(List.of("--heads"));
                requirePositive("--id-width", idWidth);
                yield start.llmId(idWidth, seed);
            }
            case POPULARITY -> {
                refuse(OF_TEXTS);
                refuse(List.of("--llm", "--user-llm", "--user-init", "--user-layers", "--id-width", "--heads"));
                yield start.popularity();
            }
        };
    }

    private void requirePositive(String option, int value) {
        if (value < 1) {
            throw new ParameterException(spec.commandLine(), option + " is " + value + ", expected at least 1");
        }
    }

    private void refuse(List<String> options) {
        for (String option : options) {
            if (spec.commandLine().getParseResult().hasMatchedOption(option)) {
                throw new ParameterException(
                        spec.commandLine(), option + " has no meaning for --model " + kind + ": leave it away");
            }
        }
    }
}
