package org.hllm4j.cli;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Interactions;
import org.hllm4j.serve.Recommender;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "recommend",
        description = "Recommends items to users of a log, or for a history given by item ids.",
        footer = {
            "  hllm recommend --run run --items items.csv --interactions interactions.csv --user 42 --user 7",
            "  hllm recommend --run run --items items.csv --history 1,50,181 -k 5"
        })
final class RecommendCommand extends Subcommand {
    @Mixin
    private RunOption run;

    @Mixin
    private ItemOptions items;

    @Mixin
    private LogOptions log;

    @Option(
            names = "--user",
            paramLabel = "ID",
            description = "A user of the log, whose events are the history; may be given several times.")
    private List<String> users = List.of();

    @Option(
            names = "--history",
            split = ",",
            paramLabel = "ID",
            description = "Items of a history, oldest first, instead of --interactions and --user.")
    private List<String> history = List.of();

    @Option(names = "-k", paramLabel = "N", description = "Items to recommend. Default: ${DEFAULT-VALUE}.")
    private int k = 10;

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        if (users.isEmpty() == history.isEmpty()) {
            throw wrongUsage("expected either --user=ID with --interactions=FILE, or --history=ID,ID,...");
        }
        if (k < 1) {
            throw wrongUsage("-k is " + k + ", expected at least 1");
        }
        if (history.isEmpty()) {
            log.required();
        }
        try (Progress progress = progress()) {
            Catalogue catalogue = run.catalogue(items.items);
            List<String> names = new ArrayList<>(users);
            List<int[]> histories = new ArrayList<>();
            if (history.isEmpty()) {
                Interactions interactions = log.read(catalogue);
                catalogue = interactions.catalogue();
                users.forEach(user -> histories.add(events(interactions, user)));
            } else {
                names.add(null);
                histories.add(rows(catalogue));
            }
            device.apply();
            try (Recommender recommender = Recommender.open(
                    run.run(),
                    catalogue,
                    device.device(),
                    device.storage(),
                    progress.counter("items", "items", catalogue.size()))) {
                print(catalogue, Listing.of(recommender, names, histories, k));
            }
        }
        return Main.OK;
    }

    private void print(Catalogue catalogue, List<Listing> listings) {
        List<String> keys = run.run().manifest().textKeys();
        listings.forEach(listing -> out().println(listing.text(catalogue, keys)));
        json.write(Map.of(
                "users", listings.stream().map(l -> l.asMap(catalogue, keys)).toList()));
    }

    private int[] events(Interactions interactions, String user) {
        int number = interactions.user(user);
        if (number < 0) {
            throw new HllmException("user \"" + user + "\" has no events in " + log.interactions);
        }
        return interactions.events(number);
    }

    private int[] rows(Catalogue catalogue) {
        int[] rows = history.stream().mapToInt(catalogue::row).toArray();
        for (int i = 0; i < rows.length; i++) {
            if (rows[i] < 0) {
                throw new HllmException("item \"" + history.get(i) + "\" of --history is not in " + items.items);
            }
        }
        return rows;
    }
}
