package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ItemPriorTest {
    private static final int ITEMS = 15; // the last of which has held-out events only
    private static final int USERS = 20;
    private static final int TRAINS = 300; // timestamps before this

    @TempDir
    Path folder;

    private record Event(int user, int item, String rating, int time) {}

    private List<Event> events(long seed) {
        Random random = new Random(seed);
        List<Event> events = new ArrayList<>();
        for (int time = 0; time < 400; time++) {
            int item = time < TRAINS ? random.nextInt(ITEMS - 1) : random.nextInt(ITEMS);
            int user = random.nextInt(USERS);
            int rating = Math.clamp(Math.round(item / 2.0 + user / 5.0 + 2 * random.nextGaussian() - 2), 0, 10);
            events.add(new Event(user, item, random.nextInt(5) == 0 ? "" : "" + rating, time));
        }
        return events;
    }

    private LabelledSequences read(List<Event> events, String rule) {
        StringBuilder items = new StringBuilder("item_id,title\n");
        for (int i = 0; i < ITEMS; i++) {
            items.append("i").append(i).append(",film\n");
        }
        StringBuilder log = new StringBuilder("item_id,user_id,timestamp,rating\n");
        for (Event e : events) {
            log.append("i%d,u%d,%d,%s\n".formatted(e.item, e.user, e.time, e.rating));
        }
        try {
            Catalogue catalogue =
                    Catalogue.read(Files.writeString(folder.resolve("items.csv"), items), List.of("title"));
            Interactions interactions = Interactions.read(
                    Files.writeString(folder.resolve("log.csv"), log), catalogue, MissingText.ERROR, "rating");
            return new LabelledSequences(interactions, LabelRule.parse(rule), new TimeSplit(TRAINS, 350), 7)
                    .withItemPrior();
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Biases said anew: dense, in many more rounds. */
    private record Biases(List<Event> rated, double[] users) {
        static Biases of(List<Event> events) {
            List<Event> rated = events.stream()
                    .filter(e -> e.time < TRAINS && !e.rating.isEmpty())
                    .toList();
            Biases biases = new Biases(rated, new double[USERS]);
            for (int round = 0; round < 50; round++) {
                double all = biases.all();
                double[] items = IntStream.range(0, ITEMS)
                        .mapToDouble(item -> biases.item(item, null))
                        .toArray();
                for (int user = 0; user < USERS; user++) {
                    int id = user;
                    List<Event> own = rated.stream().filter(e -> e.user == id).toList();
                    double rest = own.stream()
                            .mapToDouble(e -> value(e) - all - items[e.item])
                            .sum();
                    biases.users[user] = rest / (own.size() + 5);
                }
            }
            return biases;
        }

        static double value(Event event) {
            return Double.parseDouble(event.rating);
        }

        /** Mean of all values without the users' biases. */
        double all() {
            return rated.stream()
                    .mapToDouble(e -> value(e) - users[e.user])
                    .average()
                    .orElseThrow();
        }

        /** Of an item, from all its events but one. */
        double item(int item, Event but) {
            double all = all();
            List<Event> own =
                    rated.stream().filter(e -> e.item == item && e != but).toList();
            return own.stream().mapToDouble(e -> value(e) - users[e.user] - all).sum() / (own.size() + 5);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"rating>=5", "rating<3"})
    void itIsALogisticRegressionOnBiasesFromTheOtherEvents(String rule) {
        System.out.println("seed " + Tiny.seed());
        List<Event> events = events(Tiny.seed());
        LabelledSequences data = read(events, rule);
        Biases biases = Biases.of(events);
        float[] values = data.prior().values();
        double slope = values[0] / biases.item(0, null);
        assertTrue(rule.contains(">") ? slope > 0 : slope < 0, "slope " + slope);
        for (int item = 0; item < ITEMS; item++) {
            assertEquals(slope * biases.item(item, null), values[item], 1e-4);
        }
        assertEquals(0, values[ITEMS - 1], 1e-9);

        // Where the derivative of the likelihood, with its prior, is zero.
        double intercept = Math.log(data.rate() / (1 - data.rate()));
        double gradient = 0;
        double squares = 0;
        for (Event e : biases.rated) {
            double x = biases.item(e.item, e);
            gradient += x * (data.rule().label(Biases.value(e)) - 1 / (1 + Math.exp(-intercept - slope * x)));
            squares += x * x;
        }
        assertEquals(gradient, slope * squares / biases.rated.size(), 2e-2);
    }

    @Test
    void eventsComeWithThePriorsOfTheirItems() {
        List<Event> events = events(Tiny.seed());
        LabelledSequences data = read(events, "rating>=5");
        float[] values = data.prior().values();
        Biases biases = Biases.of(events);
        double slope = values[0] / biases.item(0, null);
        for (Split part : Split.values()) {
            for (LabelledSequence sequence : data.evaluation(part)) {
                for (int i = 0; i < sequence.places().length; i++) {
                    assertEquals(values[sequence.items()[sequence.places()[i]]], sequence.priors()[i]);
                }
            }
        }
        List<Float> found = new ArrayList<>();
        data.training(true).forEach(s -> {
            for (float prior : s.priors()) {
                found.add(prior);
            }
        });
        List<Float> expected = new ArrayList<>();
        for (int user = 0; user < data.interactions().users(); user++) {
            String id = data.interactions().userId(user);
            for (Event e : biases.rated) {
                if (id.equals("u" + e.user)) {
                    expected.add((float) (slope * biases.item(e.item, e)));
                }
            }
        }
        assertEquals(expected.size(), found.size());
        for (int i = 0; i < expected.size(); i++) {
            assertEquals(expected.get(i), found.get(i), 1e-4);
        }
    }

    @Test
    void whatIsHeldOutDoesNotChangeIt() {
        List<Event> events = events(Tiny.seed());
        List<Event> others = events.stream()
                .map(e -> e.time < TRAINS ? e : new Event(e.user, e.item, "10", e.time))
                .toList();
        assertArrayEquals(
                read(events, "rating>=5").prior().values(),
                read(others, "rating>=5").prior().values());
    }

    @Test
    void itStaysFiniteWhereTheMeansTellAllAndIsNothingWhereTheyTellNothing() {
        List<Event> apart = new ArrayList<>();
        List<Event> alike = new ArrayList<>();
        for (int time = 0; time < 400; time++) {
            apart.add(new Event(time % USERS, time % 2, time % 2 == 0 ? "0" : "1", time));
            alike.add(new Event(time % USERS, 0, time % 2 == 0 ? "0" : "1", time));
        }
        float[] values = read(apart, "rating").prior().values();
        assertTrue(values[0] < -1 && values[1] > 1 && Float.isFinite(values[1]), values[0] + " " + values[1]);
        LabelledSequences same = read(alike, "rating");
        assertArrayEquals(new float[ITEMS], same.prior().values(), 1e-9f);
        same.training(true).forEach(s -> assertArrayEquals(new float[s.places().length], s.priors(), 1e-9f));
    }
}
