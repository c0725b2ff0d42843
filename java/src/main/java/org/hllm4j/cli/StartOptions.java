package org.hllm4j.cli;

import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Adapters;
import org.hllm4j.run.IdStart;
import org.hllm4j.run.PopularityStart;
import org.hllm4j.run.Start;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** The pretrained models and how an HLLM is made of them. */
final class StartOptions {
    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(
            names = "--llm",
            paramLabel = "PATH",
            description = "The pretrained model of both sides: a Hugging Face folder or a GGUF file.")
    private Path llm;

    @Option(names = "--item-llm", paramLabel = "PATH", description = "The Item LLM, where the sides differ.")
    private Path itemLlm;

    @Option(names = "--user-llm", paramLabel = "PATH", description = "The User LLM, where the sides differ.")
    private Path userLlm;

    @Option(
            names = "--item-init",
            paramLabel = "INIT",
            description = "How the Item LLM starts: pretrained or random. Default: pretrained.")
    private Start.Init itemInit = Start.Init.PRETRAINED;

    @Option(
            names = "--user-init",
            paramLabel = "INIT",
            description = "How the User LLM starts: pretrained or random. Default: pretrained, of llm-id random.")
    private Start.Init userInit;

    @Option(
            names = "--freeze",
            paramLabel = "SIDE",
            description =
                    "Which side keeps its start weights: none, item, user, or both (which leaves a ranker's head to be"
                            + " trained). Default: none.")
    Start.Freeze freeze = Start.Freeze.NONE;

    @Option(
            names = "--item-lora",
            paramLabel = "RANK",
            description =
                    "Train the Item LLM through adapters of this rank (LoRA): its own weights stay as they are and"
                            + " need no gradients and no moments; the run holds the sum of both. 0: train its weights. Default:"
                            + " 0.")
    private int itemLora;

    @Option(names = "--user-lora", paramLabel = "RANK", description = "Likewise the User LLM. Default: 0.")
    private int userLora;

    @Option(
            names = "--lora-alpha",
            paramLabel = "A",
            description = "What adapters add is multiplied by A / RANK. Default: " + Adapters.ALPHA + ".")
    private Double loraAlpha;

    @Option(
            names = "--item-layers",
            paramLabel = "N",
            description = "The first N layers of the Item LLM, its final norm kept; 0: all. Default: ${DEFAULT-VALUE}.")
    private int itemLayers;

    @Option(
            names = "--user-layers",
            paramLabel = "N",
            description = "The first N layers of the User LLM, its final norm kept; 0: all, of sasrec 2. Default:"
                    + " ${DEFAULT-VALUE}.")
    private int userLayers;

    @Option(
            names = "--pooling",
            paramLabel = "HOW",
            description =
                    "An item's vector: token (the state at [ITEM]) or mean (of its tokens' states). Default: token.")
    private Pooling pooling = Pooling.TOKEN;

    @Option(
            names = "--max-text-length",
            paramLabel = "N",
            description = "Tokens of an item's text, the rest is cut. Default: ${DEFAULT-VALUE}.")
    private int maxTextLength = 64;

    @Option(
            names = "--max-history",
            paramLabel = "N",
            description = "Events of a user that the User LLM sees. Default: ${DEFAULT-VALUE}.")
    private int maxHistory = 50;

    @Option(
            names = "--text-keys",
            split = ",",
            paramLabel = "KEY",
            description =
                    "Columns of items.csv that make an item's text, in this order. Default: title,tag,description.")
    private List<String> textKeys = List.of("title", "tag", "description");

    Adapters adapters() {
        rank("--item-lora", itemLora, Start.Freeze.ITEM);
        rank("--user-lora", userLora, Start.Freeze.USER);
        double alpha = loraAlpha == null ? Adapters.ALPHA : loraAlpha;
        if (!(alpha > 0 && Double.isFinite(alpha))) {
            throw new ParameterException(
                    spec.commandLine(), "--lora-alpha is " + alpha + ", expected a number above 0");
        }
        Adapters adapters = new Adapters(itemLora, userLora, alpha);
        if (loraAlpha != null && !adapters.any()) {
            throw new ParameterException(
                    spec.commandLine(), "--lora-alpha needs adapters: --item-lora, --user-lora, or both");
        }
        return adapters;
    }

    private void rank(String option, int rank, Start.Freeze side) {
        requireAtLeast(0, option, rank);
        if (rank > 0 && (freeze == side || freeze == Start.Freeze.BOTH)) {
            throw new ParameterException(
                    spec.commandLine(),
                    option + " trains the side that --freeze " + freeze.name().toLowerCase(Locale.ROOT)
                            + " keeps as it is; leave out one of the two");
        }
    }

    Start start(long seed) {
        Path item = itemLlm == null ? llm : itemLlm;
        Path user = userLlm == null ? llm : userLlm;
        if (item == null || user == null) {
            throw new ParameterException(
                    spec.commandLine(), "Missing required option: '--llm=PATH' (or --item-llm and --user-llm)");
        }
        requireAtLeast(0, "--item-layers", itemLayers);
        requireAtLeast(0, "--user-layers", userLayers);
        requireAtLeast(1, "--max-text-length", maxTextLength);
        requireAtLeast(1, "--max-history", maxHistory);
        return new Start(
                item,
                user,
                itemInit,
                userInit == null ? Start.Init.PRETRAINED : userInit,
                freeze,
                itemLayers,
                userLayers,
                pooling,
                maxTextLength,
                maxHistory,
                textKeys,
                seed,
                adapters());
    }

    /** Item ids into a small transformer. */
    IdStart sasrec(int width, int heads, long seed) {
        requireAtLeast(0, "--user-layers", userLayers);
        requireAtLeast(1, "--max-history", maxHistory);
        int layers = userLayers == 0 ? IdStart.LAYERS : userLayers;
        return IdStart.sasrec(width, layers, heads, maxHistory, textKeys, seed);
    }

    /** Item ids into the shape of the User LLM. */
    IdStart llmId(int idWidth, long seed) {
        Path from = userLlm == null ? llm : userLlm;
        if (from == null) {
            throw new ParameterException(
                    spec.commandLine(), "Missing required option: '--llm=PATH', whose shape the user side has");
        }
        requireAtLeast(0, "--user-layers", userLayers);
        requireAtLeast(1, "--max-history", maxHistory);
        Start.Init init = userInit == null ? Start.Init.RANDOM : userInit;
        return IdStart.llmId(idWidth, from, userLayers, init, maxHistory, textKeys, seed);
    }

    PopularityStart popularity() {
        requireAtLeast(1, "--max-history", maxHistory);
        return new PopularityStart(maxHistory, textKeys);
    }

    private void requireAtLeast(int least, String option, int value) {
        if (value < least) {
            throw new ParameterException(spec.commandLine(), option + " is " + value + ", expected at least " + least);
        }
    }
}
