package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.List;

/** Horizontal bars as an SVG picture. */
final class BarChart {
    private static final int LABELS = 330;
    private static final int BARS = 380;
    private static final int STEP = 22;

    private record Bar(String label, double value, String text) {}

    private final String title;
    private final double line;
    private final List<Bar> bars = new ArrayList<>();

    /** @param line a value to mark, such as 1 where bars are ratios; 0 for none */
    BarChart(String title, double line) {
        this.title = title;
        this.line = line;
    }

    void add(String label, double value, String unit) {
        bars.add(new Bar(label, value, Report.number(value) + " " + unit));
    }

    boolean isEmpty() {
        return bars.isEmpty();
    }

    String svg() {
        double most = Math.max(line, bars.stream().mapToDouble(Bar::value).max().orElse(1));
        int height = 40 + STEP * bars.size() + 10;
        StringBuilder svg = new StringBuilder(Report.text(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\""
                        + " font-size=\"12\">%n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>%n<text x=\"10\""
                        + " y=\"20\" font-size=\"14\" font-weight=\"bold\">%s</text>%n",
                LABELS + BARS + 120, height, escape(title)));
        int y = 40;
        for (Bar bar : bars) {
            double length = BARS * bar.value / most;
            svg.append(Report.text(
                    "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>"
                            + "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"14\" fill=\"#4472a8\"/>"
                            + "<text x=\"%.1f\" y=\"%d\">%s</text>%n",
                    LABELS - 8,
                    y + 11,
                    escape(bar.label),
                    LABELS,
                    y,
                    length,
                    LABELS + length + 6,
                    y + 11,
                    escape(bar.text)));
            y += STEP;
        }
        if (line > 0) {
            double x = LABELS + BARS * line / most;
            svg.append(Report.text(
                    "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"34\" y2=\"%d\" stroke=\"#b03030\" stroke-dasharray=\"4 3\"/>%n",
                    x, x, height - 8));
        }
        return svg.append("</svg>\n").toString();
    }

    static String escape(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
    }
}
