package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.cli.TinyWorld.Ran;
import org.hllm4j.engine.Context;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Options, exit codes and messages; nothing is trained. */
class CommandLineTest {
    @TempDir
    static Path folder;

    static TinyWorld world;

    @BeforeAll
    static void make() {
        world = TinyWorld.in(folder);
    }

    @ParameterizedTest
    @CsvSource(delimiter = ':', textBlock = """
        train: --llm --item-llm --user-llm --item-init --user-init --freeze --items --interactions --text-keys \
        --item-lora --user-lora --lora-alpha --pooling --max-text-length --max-history --item-layers --user-layers --negatives --epochs --batch-users \
        --lr --dtype --device --threads --seed --out --max-steps --checkpoint-minutes --missing-text \
        --no-split-long --warmup --weight-decay --clip --max-rows --recompute --patience --plan --restart --json --verbose
        train-ranker: --from-run --fusion --label --lambda --hold-out --split-at --llm --freeze --items --interactions \
        --out --restart --epochs --lr --json --verbose
        embed: --llm --run --items --text-keys --item-token --out --item-layers --pooling --max-text-length \
        --dtype --limit --device --threads --json
        evaluate: --run --items --interactions --missing-text --device --threads --dtype --json
        recommend: --run --items --interactions --user --history -k --device --threads --dtype --json
        export: --run --items --interactions --out --what --json
        serve: --run --items --host --port --token --log --fsync --fsync-ms --cache-bytes --cache-dtype --slack \
        --batch --batch-ms --queue --timeout-ms --device --threads --dtype
        doctor: --device --json --verbose
        quickstart: --minutes --items --interactions --llm --dir --cache --restart --threads --json\
        """)
    void everyCommandHasItsOptionsAndExamples(String command, String options) {
        Ran help = run(command, "--help");
        assertEquals(Main.OK, help.code());
        assertTrue(help.out().contains("Examples:") && help.out().contains("hllm " + command), help.out());
        for (String option : options.strip().split("\\s+")) {
            assertTrue(help.out().matches("(?s).*" + option + "[=,\\s].*"), option + " is not in\n" + help.out());
        }
    }

    @Test
    void withoutArgumentsTheHelpIsPrinted() {
        assertEquals(run("--help"), run());
        for (String command : List.of(
                "quickstart", "train", "train-ranker", "evaluate", "recommend", "embed", "export", "serve", "doctor")) {
            assertTrue(run().out().contains("  " + command + " "), command);
        }
        assertTrue(run("--version").out().startsWith("hllm4j "));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
        train                                                      | --items=FILE
        train --items i.csv --out r                                | --interactions
        train --items i.csv --interactions l.csv --out r           | --llm
        train --items i.csv --interactions l.csv --out r --llm m --epochs 0           | epochs is 0
        train --items i.csv --interactions l.csv --out r --llm m --epochs few         | is not an int
        train --items i.csv --interactions l.csv --out r --llm m --freeze both        | both
        train --items i.csv --interactions l.csv --out r --llm m --pooling max        | max
        train --items i.csv --interactions l.csv --out r --llm m --item-lora -1       | --item-lora is -1
        train --items i.csv --interactions l.csv --out r --llm m --lora-alpha 8       | --lora-alpha needs adapters
        train --items i.csv --interactions l.csv --out r --llm m --user-lora 8 --lora-alpha 0  | --lora-alpha is 0.0
        train --items i.csv --interactions l.csv --out r --llm m --item-lora 8 --freeze item   | leave out one of the two
        train --items i.csv --interactions l.csv --out r --model sasrec --user-lora 8  | --user-lora
        train --items i.csv --interactions l.csv --out r --llm m --threads -1         | --threads is -1
        train --items i.csv --interactions l.csv --out r --llm m --max-history 0      | --max-history
        train --items i.csv --interactions l.csv --out r --llm m --dtype i32          | f32 or bf16
        train --items i.csv --interactions l.csv --out r --llm m --epoch 3            | --epoch
        embed --items i.csv --out v.npy                            | --llm=PATH or --run=DIR
        embed --items i.csv --out v.npy --llm m --run r            | --llm=PATH or --run=DIR
        embed --items i.csv --out v.bin --llm m                    | .npy
        embed --items i.csv --out v.npy --run r --pooling mean     | --pooling
        embed --items i.csv --out v.npy --llm m --limit -2         | --limit is -2
        evaluate --run r --items i.csv                             | --interactions
        recommend --run r --items i.csv                            | --user
        recommend --run r --items i.csv --user 1                   | --interactions
        recommend --run r --items i.csv --history 1 -k 0           | -k is 0
        export --run r --items i.csv --out o --what all            | all
        export --run r --items i.csv --out o --dtype bf16          | bf16
        serve --items i.csv                                        | --run=DIR
        serve --run r --items i.csv --host 0.0.0.0                 | expected --token
        serve --run r --items i.csv --host no.such.name.invalid    | expected --token
        serve --run r --items i.csv --port 70000                   | --port is 70000
        serve --run r --items i.csv --batch 0                      | --batch 0
        serve --run r --items i.csv --slack -1                     | --slack is -1
        serve --run r --items i.csv --cache-bytes 1x               | "1x" is no size
        serve --run r --items i.csv --cache-dtype i32              | --cache-dtype is i32
        serve --run r --items i.csv --fsync-ms 0                   | --fsync-ms is 0
        serve --run r --items i.csv --fsync sometimes              | sometimes
        quickstart --items i.csv                                   | belong together
        quickstart --minutes 0                                     | --minutes is 0
        retrain                                                    | retrain\
        """)
    void wrongUsageIsSaidInOneLineAndWhereHelpIs(String line, String expected) {
        Ran ran = run((Object[]) line.split(" +"));
        assertEquals(Main.USAGE, ran.code(), ran.err());
        assertTrue(ran.err().contains(expected), ran.err());
        assertTrue(ran.err().contains("--help"), ran.err());
        assertEquals("", ran.out());
    }

    @Test
    void errorsAreOneLineAndSayWhatToDo() throws IOException {
        Path none = folder.resolve("none");
        Path run = folder.resolve("empty-run");
        fails(
                "no model at " + none,
                "train",
                "--llm",
                none,
                "--items",
                world.items(),
                "--interactions",
                world.interactions(),
                "--text-keys",
                "title,tag",
                "--out",
                run);
        fails(none + ": no such file", train("--items", none));
        fails(none + ": no such file", train("--interactions", none));
        fails("no column for text key \"colour\"", train("--text-keys", "title,colour"));
        fails("--item-layers is 9, but the model has 2 layers", train("--item-layers", 9));
        fails("adapters of rank 33 are larger than", train("--user-lora", 33));
        fails("there is no device 'abacus'; expected cpu", train("--device", "abacus"));
        fails("--dtype bf16", train("--dtype", "bf16"));
        fails(
                "is not a run folder",
                "evaluate",
                "--run",
                run,
                "--items",
                world.items(),
                "--interactions",
                world.interactions());
        fails("is not a run folder", "embed", "--run", run, "--items", world.items(), "--out", folder.resolve("v.npy"));
        Path token = Files.writeString(folder.resolve("token.npy"), "no array");
        fails("not an .npy file", world.embed(world.llm(), folder.resolve("v.npy"), "--item-token", token));
        Path log = Files.writeString(folder.resolve("unknown.csv"), "item_id,user_id,timestamp\nx9,u1,1\n");
        fails("--missing-text allow", train("--interactions", log));
    }

    @Test
    void verbosePrintsTheTrace() {
        Ran ran = run(train("--item-layers", 9, "--verbose"));
        assertTrue(ran.err().contains("\tat org.hllm4j."), ran.err());
    }

    @Test
    void doctorSaysWhatAGpuTakes() {
        Ran ran = run("doctor", "--device", "cuda");
        assertEquals(Context.available("cuda") ? Main.OK : Main.ERROR, ran.code(), ran.out());
        assertTrue(Context.available("cuda") || ran.out().contains("libhllm_cuda.so"), ran.out());
        assertEquals(Main.OK, run("doctor").code());
        assertEquals(Main.ERROR, run("doctor", "--device", "abacus").code());
    }

    @Test
    void planPrintsWhatIsNeededAndTrainsNothing() throws IOException {
        Path json = folder.resolve("plan.json");
        Ran ran = run(train("--plan", "--json", json));
        assertEquals(Main.OK, ran.code(), ran.err());
        Map<String, ?> plan = JsonOption.read(json);
        // 40 users with 2 or more training events in 10 batches of 4, 2 epochs.
        assertEquals(20, plan.get("steps"), ran.out());
        long parameters = ((Number) plan.get("parameters_trained")).longValue();
        assertTrue(parameters > 2 * 2 * 4 * 32 * 32 && parameters < 60_000, ran.out());
        assertEquals(12 * parameters, ((Number) plan.get("checkpoint_bytes")).longValue());
        assertTrue(((Number) plan.get("memory_bytes")).longValue() > 16 * parameters);
        assertTrue(ran.out().contains("Steps        20") && ran.out().contains("activations"), ran.out());
        assertTrue(ran.out().matches("(?s).*activations.* with --recompute, for 2\\d % more arithmetic.*"), ran.out());
        assertEquals(plan.get("activation_bytes_kept"), plan.get("activation_bytes"));
        assertFalse(Files.exists(folder.resolve("planned")));
    }

    @Test
    void doctorChecksTheMachine() {
        Path json = folder.resolve("doctor.json");
        Ran ran = run("doctor", "--json", json);
        assertEquals(Main.OK, ran.code(), ran.out());
        for (String part : List.of("Java", "native library", "tokenizer", "memory", "disk", "python3", "CUDA")) {
            assertTrue(ran.out().matches("(?s).*(ok|missing) +" + part + ".*"), part + " is not in\n" + ran.out());
        }
        assertEquals(7, ((List<?>) JsonOption.read(json).get("checks")).size());
    }

    @Test
    void movieLensBecomesCsv() {
        List<String[]> items = List.of(
                new String[] {"1", "Toy Story", "1995", "Animation Children's Comedy"},
                new String[] {"2", "\"Two\", the", "", "War"});
        assertEquals("""
            item_id,title,tag
            1,Toy Story (1995),"Animation, Children's, Comedy"
            2,\
            """ + "\"\"\"Two\"\", the\",War\n", DemoFiles.itemsCsv(items));
        assertEquals(
                "item_id,user_id,timestamp,rating\n242,196,881250949,3\n",
                DemoFiles.interactionsCsv(List.<String[]>of(new String[] {"196", "242", "3", "881250949"})));
    }

    private static void fails(String expected, Object... arguments) {
        Ran ran = run(arguments);
        assertEquals(Main.ERROR, ran.code(), ran.err());
        assertTrue(ran.err().contains("hllm: ") && ran.err().contains(expected), ran.err());
        assertFalse(ran.err().contains("\tat "), ran.err());
        assertEquals("", ran.out());
    }

    /** A training of the tiny world with some options changed. */
    private static Object[] train(Object... changes) {
        Map<Object, Object> options = new LinkedHashMap<>();
        options.put("--llm", world.llm());
        options.put("--items", world.items());
        options.put("--interactions", world.interactions());
        options.put("--text-keys", "title,tag");
        options.put("--batch-users", 4);
        options.put("--epochs", 2);
        options.put("--out", folder.resolve("planned"));
        List<Object> arguments = new ArrayList<>(List.of("train"));
        for (int i = 0; i < changes.length; i++) {
            if (options.containsKey(changes[i])) {
                options.put(changes[i], changes[++i]);
            } else {
                arguments.add(changes[i]);
            }
        }
        options.forEach((name, value) -> arguments.addAll(List.of(name, value)));
        return arguments.toArray();
    }
}
