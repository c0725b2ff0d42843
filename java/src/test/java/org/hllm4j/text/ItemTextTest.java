package org.hllm4j.text;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Test;

class ItemTextTest {
    @Test
    void keysThatHaveAValueFollowThePromptWithNothingInBetween() {
        ItemText text = new ItemText(List.of("title", "tag", "description"));
        assertEquals(
                "Compress the following sentence into embedding: title: The Gold Rushdescription: NA",
                text.of(Map.of("title", "The Gold Rush", "tag", "", "description", "NA", "year", "1925")::get));
        assertEquals("Compress the following sentence into embedding: tag:  ", text.of(Map.of("tag", " ")::get));
        assertEquals(ItemText.PROMPT, text.of(key -> null));
        assertThrows(HllmException.class, () -> new ItemText(List.of()));
    }
}
