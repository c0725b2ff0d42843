package org.hllm4j.data;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;

/**
 * Training sequences in shuffled batches, a new order every epoch, the last and smaller batch included. Any batch can
 * be asked for by its place, and is always the same, so a resumed run simply goes on where it stopped.
 */
public final class Batches {
    /**
     * How batches are made.
     *
     * @param batchUsers sequences in a batch
     * @param maxHistory longest input of a sequence, in events
     * @param negatives M: at least M negatives for a batch, ceil(M / sequences) per sequence, drawn from all items that
     *     there are; or 0: {@code maxHistory + 1} per sequence, drawn outside the sequence's own items
     * @param seed of the shuffles and the negatives
     */
    public record Settings(int batchUsers, int maxHistory, int negatives, long seed) {
        public Settings {
            if (batchUsers < 1 || maxHistory < 1 || negatives < 0) {
                throw new HllmException("batch users " + batchUsers + ", max history " + maxHistory + ", negatives "
                        + negatives + ": expected at least 1, at least 1, and a number of negatives or 0");
            }
        }
    }

    /** Order of one epoch, kept because its batches are asked for one after the other. */
    private record Epoch(int number, int[] order) {}

    private final List<TrainingSequence> sequences;
    private final int[] items;
    private final Settings settings;
    private Epoch current = new Epoch(-1, new int[0]);

    /**
     * @param items rows of the catalogue that negatives are drawn from, ascending; those of the sequences are among them
     * @throws HllmException when there is nothing to train on
     */
    public Batches(List<TrainingSequence> sequences, int[] items, Settings settings) {
        if (sequences.isEmpty()) {
            throw new HllmException("there are no training sequences: no user has two training events"
                    + " (the last two events of a user are held out)");
        }
        this.sequences = List.copyOf(sequences);
        this.items = items;
        this.settings = settings;
    }

    public int batchesPerEpoch() {
        return Math.ceilDiv(sequences.size(), settings.batchUsers());
    }

    /** Batch {@code index} (from 0) of an epoch (from 0). */
    public Batch batch(int epoch, int index) {
        if (epoch < 0 || index < 0 || index >= batchesPerEpoch()) {
            throw new HllmException("batch " + index + " of epoch " + epoch + ": there are " + batchesPerEpoch()
                    + " batches per epoch");
        }
        int begin = index * settings.batchUsers();
        int end = (int) Math.min(sequences.size(), (long) begin + settings.batchUsers());
        int[] members = Arrays.copyOfRange(order(epoch), begin, end);
        int[][] histories = new int[members.length][];
        Arrays.setAll(histories, i -> sequences.get(members[i]).items());
        int[] negatives = IntStream.of(members)
                .mapToObj(member -> negatives(epoch, member, members.length))
                .flatMapToInt(IntStream::of)
                .toArray();
        return new Batch((long) epoch * batchesPerEpoch() + index, members, histories, negatives, epoch, index);
    }

    private int[] negatives(int epoch, int member, int batchSize) {
        long seed = settings.seed();
        int[] places = settings.negatives() == 0
                ? Negatives.outside(seed, epoch, member, settings.maxHistory() + 1, items.length, places(member))
                : Negatives.free(seed, epoch, member, Math.ceilDiv(settings.negatives(), batchSize), items.length);
        return Arrays.stream(places).map(place -> items[place]).toArray();
    }

    private int[] places(int member) {
        return Arrays.stream(sequences.get(member).items())
                .map(item -> Arrays.binarySearch(items, item))
                .toArray();
    }

    private int[] order(int epoch) {
        Epoch known = current;
        if (known.number() != epoch) {
            known = new Epoch(epoch, Shuffle.order(settings.seed(), epoch, sequences.size()));
            current = known;
        }
        return known.order();
    }
}
