package org.hllm4j.cli;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;

/**
 * A few series over the same places, as an SVG picture.
 *
 * @param unit of the values
 * @param places names along the horizontal axis
 */
record Chart(String title, String unit, List<String> places, List<Series> series) {
    private static final String[] COLOURS = {
        "#4472a8", "#d07030", "#5a9a55", "#9a6ab0", "#b03030", "#8a7a50", "#50a0a8", "#707070", "#c8a020", "#d080a0"
    };
    private static final int LEFT = 50;
    private static final int TOP = 40;
    private static final int HEIGHT = 240;
    private static final int LEGEND = 18;

    /** @param values one per place; NaN: there is none */
    record Series(String name, double[] values) {}

    /** A group of bars at each place. */
    String bars() {
        StringBuilder svg = frame();
        double group = width() / (double) places.size();
        double bar = 0.8 * group / series.size();
        for (int s = 0; s < series.size(); s++) {
            for (int p = 0; p < places.size(); p++) {
                double value = series.get(s).values[p];
                if (!Double.isNaN(value)) {
                    svg.append(text(
                            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>%n",
                            LEFT + group * (p + 0.1) + bar * s, y(value), bar, TOP + HEIGHT - y(value), colour(s)));
                }
            }
        }
        return svg.append("</svg>\n").toString();
    }

    /** A line for each series. */
    String lines() {
        StringBuilder svg = frame();
        double group = width() / (double) places.size();
        for (int s = 0; s < series.size(); s++) {
            List<String> points = new ArrayList<>();
            for (int p = 0; p < places.size(); p++) {
                double value = series.get(s).values[p];
                if (!Double.isNaN(value)) {
                    double x = LEFT + group * (p + 0.5);
                    points.add(text("%.1f,%.1f", x, y(value)));
                    svg.append(
                            text("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"/>%n", x, y(value), colour(s)));
                }
            }
            svg.append(text(
                    "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>%n",
                    String.join(" ", points), colour(s)));
        }
        return svg.append("</svg>\n").toString();
    }

    private int width() {
        return Math.max(420, 26 * places.size() * series.size());
    }

    /** The largest value of the vertical axis: 1, 2 or 5 times a power of ten, in five steps. */
    private double top() {
        double most = series.stream()
                .flatMapToDouble(s -> Arrays.stream(s.values))
                .filter(v -> !Double.isNaN(v))
                .max()
                .orElse(1);
        double step = Math.pow(10, Math.floor(Math.log10(Math.max(most, 1e-9) / 5)));
        for (double factor : new double[] {1, 2, 5, 10}) {
            if (5 * factor * step >= most) {
                return 5 * factor * step;
            }
        }
        return 50 * step;
    }

    private double y(double value) {
        return TOP + HEIGHT * (1 - value / top());
    }

    private StringBuilder frame() {
        int height = TOP + HEIGHT + 30 + LEGEND * series.size() + 8;
        StringBuilder svg = new StringBuilder(text(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\""
                        + " font-size=\"12\">%n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>%n"
                        + "<text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">%s</text>%n",
                LEFT + width() + 20, height, escape(title)));
        for (int i = 0; i <= 5; i++) {
            double value = top() * i / 5;
            svg.append(text(
                    "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>"
                            + "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>%n",
                    LEFT, LEFT + width(), y(value), y(value), LEFT - 6, y(value) + 4, number(value)));
        }
        svg.append(text("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>%n", LEFT - 6, TOP - 8, escape(unit)));
        double group = width() / (double) places.size();
        for (int p = 0; p < places.size(); p++) {
            svg.append(text(
                    "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>%n",
                    LEFT + group * (p + 0.5), TOP + HEIGHT + 18, escape(places.get(p))));
        }
        for (int s = 0; s < series.size(); s++) {
            int y = TOP + HEIGHT + 30 + LEGEND * s;
            svg.append(text(
                    "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>%n",
                    LEFT, y, colour(s), LEFT + 18, y + 11, escape(series.get(s).name)));
        }
        return svg;
    }

    private static String number(double value) {
        return value == Math.rint(value) ? text("%.0f", value) : text("%.2g", value);
    }

    private static String colour(int series) {
        return COLOURS[series % COLOURS.length];
    }

    private static String escape(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
    }

    private static String text(String format, Object... arguments) {
        return String.format(Locale.ROOT, format, arguments);
    }
}
