package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ModelConfigTest {
    private static ModelConfig parse(String json) {
        return ModelConfig.parse(json.replace('\'', '"'), "dir/config.json");
    }

    @Test
    void missingKeysHaveTheDefaultsOfLlamaConfig() {
        assertEquals(
                new ModelConfig(
                        Family.LLAMA, 4096, 11008, 32, 32, 32, 128, 32000, 1e-6, 10000, null, 2048, 0.02, false, 1),
                parse("{}"));
        assertEquals(
                8, parse("{'num_attention_heads':8,'num_key_value_heads':null}").kvHeads());
        assertEquals(
                64,
                parse("{'hidden_size':512,'num_attention_heads':8,'num_key_value_heads':2}")
                        .headDim());
        assertEquals(32, parse("{'head_dim':32}").headDim());
        assertNull(parse("{'bos_token_id':null}").bosTokenId());
        assertEquals(7, parse("{'bos_token_id':7}").bosTokenId());
    }

    @Test
    void bothSpellingsOfRope() {
        assertEquals(5e5, parse("{'rope_theta':500000}").ropeTheta());
        ModelConfig plain = parse("{'rope_parameters':{'rope_type':'default','rope_theta':100000.0}}");
        assertEquals(1e5, plain.ropeTheta());
        assertNull(plain.ropeScaling());
        Map<String, Object> linear = Map.of("rope_type", "linear", "factor", 2.0);
        assertEquals(
                linear, parse("{'rope_scaling':{'type':'linear','factor':2}}").ropeScaling());
        assertEquals(
                linear,
                parse("{'rope_scaling':{'rope_type':'linear','factor':2.0}}").ropeScaling());
        String llama3 = "{'rope_type':'llama3','factor':8.0,'low_freq_factor':1.0,'high_freq_factor':4.0,"
                + "'original_max_position_embeddings':8192%s}";
        Map<String, Object> expected = Map.of(
                "rope_type", "llama3",
                "factor", 8.0,
                "low_freq_factor", 1.0,
                "high_freq_factor", 4.0,
                "original_max_position_embeddings", 8192);
        assertEquals(
                expected, parse("{'rope_scaling':" + llama3.formatted("") + "}").ropeScaling());
        ModelConfig five = parse("{'rope_parameters':" + llama3.formatted(",'rope_theta':500000.0") + "}");
        assertEquals(expected, five.ropeScaling());
        assertEquals(5e5, five.ropeTheta());
        assertThrows(
                UnsupportedOperationException.class, () -> five.ropeScaling().clear());
    }

    @Test
    void whatIsWrittenIsRead() {
        ModelConfig config = parse("{'hidden_size':64,'intermediate_size':112,'num_hidden_layers':2,"
                + "'num_attention_heads':4,'num_key_value_heads':2,'head_dim':32,'vocab_size':96,'rms_norm_eps':1e-05,"
                + "'rope_theta':5000.5,'rope_scaling':{'type':'linear','factor':4.0},'max_position_embeddings':256,"
                + "'initializer_range':0.08,'tie_word_embeddings':true,'bos_token_id':null}");
        assertEquals(config, ModelConfig.parse(config.toJson(), "x"));
        assertEquals(config.withLayers(5).layers(), 5);
        assertEquals(config, config.withLayers(5).withLayers(2));
        assertEquals(1, config.withoutWords().vocabSize());
        assertTrue(
                config.withoutWords().toJson().contains("\"eos_token_id\":null"),
                config.withoutWords().toJson());
        String json = config.toJson();
        for (String part : new String[] {
            "\"architectures\":[\"LlamaForCausalLM\"]",
            "\"model_type\":\"llama\"",
            "\"torch_dtype\":\"float32\"",
            "\"rope_theta\":5000.5"
        }) {
            assertTrue(json.contains(part), json);
        }
        refused(() -> config.withLayers(0), "number of layers is 0");
    }

    private static ModelConfig decoder(String type, String more) {
        return parse("{'model_type':'" + type + "','hidden_size':64,'intermediate_size':112,'num_hidden_layers':2,"
                + "'num_attention_heads':4,'num_key_value_heads':4,'vocab_size':96,'max_position_embeddings':256"
                + more + "}");
    }

    @Test
    void familiesDifferInTheirDetails() {
        assertEquals(4096, decoder("mistral", "").slidingWindow());
        assertEquals(0, decoder("mistral", ",'sliding_window':null").slidingWindow());
        assertEquals(7, decoder("mistral", ",'sliding_window':7").slidingWindow());
        ModelConfig qwen2 = decoder("qwen2", ",'sliding_window':7");
        assertTrue(qwen2.qkvBias() && !qwen2.outBias() && !qwen2.mlpBias());
        assertEquals(0, qwen2.slidingWindow());
        String window = ",'head_dim':8,'use_sliding_window':true,'sliding_window':7";
        assertEquals(7, decoder("qwen3", window + ",'max_window_layers':0").slidingWindow());
        assertEquals(0, decoder("qwen3", window + ",'max_window_layers':2").slidingWindow());
        refused(() -> decoder("qwen3", window + ",'max_window_layers':1"), "in 1 of 2 layers");
        refused(
                () -> decoder("qwen2", window + ",'layer_types':['full_attention','sliding_attention']"),
                "in 1 of 2 layers");
        ModelConfig llama = decoder("llama", ",'attention_bias':true,'mlp_bias':true");
        assertTrue(llama.qkvBias() && llama.outBias() && llama.mlpBias());
        refused(
                () -> decoder("mistral", ",'attention_bias':true"),
                "attention_bias is true, which models of this family");
        refused(() -> decoder("qwen3", ""), "there is no head_dim");
        refused(
                () -> parse("{'model_type':'baichuan','hidden_size':64,'num_attention_heads':4}"),
                "no max_position_embeddings: a Baichuan with ALiBi");
        String bert = "{'model_type':'bert','hidden_size':64,'intermediate_size':112,'num_hidden_layers':2,"
                + "'num_attention_heads':4,'vocab_size':96,'max_position_embeddings':256%s}";
        assertEquals(2, parse(bert.formatted("")).tokenTypes());
        assertTrue(!parse(bert.formatted("")).family().sharesPrefixes());
        refused(() -> parse(bert.formatted(",'is_decoder':true")), "is_decoder is true");
        refused(() -> parse(bert.formatted(",'hidden_act':'relu'")), "hidden_act is \"relu\"");
        refused(() -> parse(bert.formatted(",'position_embedding_type':'relative_key'")), "position_embedding_type");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{'model_type':'gpt2'}|model_type is \"gpt2\", only llama, mistral, qwen2, qwen3, baichuan, bert",
                "{'model_type':'mistral'}|there is no hidden_size",
                "{'hidden_act':'gelu'}|hidden_act is \"gelu\"",
                "{'attention_bias':'yes'}|attention_bias is \"yes\", expected true or false",
                "{'rope_scaling':{'type':'yarn','factor':2,'mscale':1}}|yarn with mscale",
                "{'rope_scaling':{'type':'yarn'}}|needs a positive factor",
                "{'rope_scaling':{'type':'longrope','factor':2}}|'longrope' is not supported, only default, dynamic, linear, llama3, yarn",
                "{'rope_scaling':{'type':'linear'}}|needs a positive factor",
                "{'rope_scaling':{'type':'linear','factor':0}}|needs a positive factor",
                "{'rope_scaling':{'type':'llama3','factor':8}}|needs a positive low_freq_factor",
                "{'rope_parameters':{'partial_rotary_factor':0.5}}|partial_rotary_factor",
                "{'hidden_size':'x'}|hidden_size is \"x\"",
                "{'hidden_size':1.5}|hidden_size is 1.5",
                "{'hidden_size':99999999999}|hidden_size is 99999999999",
                "{'hidden_size':-64}|hidden size",
                "{'num_attention_heads':0}|num_attention_heads is 0",
                "{'num_key_value_heads':5}|must be a multiple of 5",
                "{'head_dim':7}|must be even",
                "{'rms_norm_eps':'1'}|rms_norm_eps is \"1\"",
                "{'rms_norm_eps':-1}|rms_norm_eps is -1.0",
                "[]|JSON object",
                "{|not valid JSON",
            })
    void whatIsNotSupportedIsRefused(String json, String part) {
        refused(() -> parse(json), "dir/config.json", part);
    }
}
