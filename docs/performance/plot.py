#!/usr/bin/env python3
"""Draws the plots and the tables of docs/performance.md from results.jsonl, which measure.sh writes."""

import json
import math
import pathlib
import statistics

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "performance.md"
COLOURS = {
    "whimbrel": "#0a6", "mosquitto": "#36c", "flashmq": "#a3c", "rumqttd": "#c63", "null": "#999"
}
NAMES = {"null": "null relay", "flashmq": "FlashMQ"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 70, 130, 36, 48


def read():
    lines = (HERE / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [row for row in rows if "machine" in row], [row for row in rows if "plot" in row]


def series(rows, plot, figure):
    """{broker: [(x, median of the figure)]} of the sound runs."""
    found = {}
    for row in rows:
        value = row.get(figure)
        if row["plot"] == plot and row.get("ok") and value is not None:
            found.setdefault(row["broker"], {}).setdefault(row["x"], []).append(value)
    return {
        broker: sorted((x, statistics.median(values)) for x, values in points.items())
        for broker, points in found.items()
    }


def decades(low, high):
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**n for n in range(first, max(last, first + 1) + 1)]


def short(value):
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def draw(name, title, across, up, lines):
    """A line for each broker, both axes logarithmic."""
    points = [point for line in lines.values() for point in line if point[0] > 0 and point[1] > 0]
    if not points:
        return
    xs = sorted({x for x, _ in points})
    ticks = decades(min(y for _, y in points), max(y for _, y in points))
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    left, right = math.log10(xs[0]), math.log10(xs[-1])

    def at(x, y):
        across = (math.log10(x) - left) / ((right - left) or 1)
        above = (math.log10(y) - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - above * (HEIGHT - TOP - BOTTOM),
        )

    text = 'font-family="sans-serif" font-size="12" fill="#222"'
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" {text} font-weight="bold">{title}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 8}" {text}>{across}</text>',
        f'<text transform="translate(14 {HEIGHT - BOTTOM}) rotate(-90)" {text}>{up}</text>',
    ]
    for tick in ticks:
        y = at(xs[0], tick)[1]
        svg.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" {text} text-anchor="end">{short(tick)}</text>')
    for x in xs:
        place = at(x, ticks[0])[0]
        svg.append(
            f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" {text} text-anchor="middle">{short(x)}</text>'
        )
    for n, (broker, line) in enumerate(sorted(lines.items())):
        colour = COLOURS.get(broker, "#000")
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in line:
            x, y = at(*point)
            svg.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        y = TOP + 16 * n
        svg.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y}" width="12" height="4" fill="{colour}"/>')
        svg.append(f'<text x="{WIDTH - RIGHT + 30}" y="{y + 6}" {text}>{NAMES.get(broker, broker)}</text>')
    svg.append("</svg>")
    (HERE / f"{name}.svg").write_text("\n".join(svg) + "\n")


def brokers_of(rows):
    known = list(COLOURS)
    found = {row["broker"] for row in rows}
    return sorted(found, key=lambda broker: known.index(broker) if broker in known else len(known))


def figure(value, digits=3):
    return "–" if value is None else f"{value:.{digits}g}" if value < 1000 else f"{value:,.0f}"


def table(head, body):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def standard(rows):
    """Processor time of the broker a unit, and the memory of a unit."""
    runs = [row for row in rows if row["plot"] == "standard" and row.get("ok")]
    brokers = brokers_of(runs)
    cpu, memory = [], []
    for scenario in dict.fromkeys(row["tag"] for row in runs):
        def median(broker, key):
            values = [
                row[key]
                for row in runs
                if (row["tag"], row["broker"]) == (scenario, broker) and row.get(key) is not None
            ]
            return statistics.median(values) if values else None

        cpu.append([scenario] + [figure(median(broker, "cpu_us")) for broker in brokers])
        sizes = [median(broker, "mem_bytes_per_unit") for broker in brokers]
        if any(size is not None for size in sizes):
            memory.append([scenario] + [figure(size) for size in sizes])
    names = [NAMES.get(broker, broker) for broker in brokers]
    return table(["CPU µs a unit"] + names, cpu), table(["bytes a unit"] + names, memory)


def by_x(rows, plot, key, head):
    lines = series(rows, plot, key)
    brokers = brokers_of([{"broker": broker} for broker in lines])
    xs = sorted({x for line in lines.values() for x, _ in line})
    body = [[short(x)] + [figure(dict(lines[broker]).get(x)) for broker in brokers] for x in xs]
    return table([head] + [NAMES.get(broker, broker) for broker in brokers], body)


def put(page, name, text):
    """Replaces what stands between the marks of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{text}\n{end}{after}"


def main():
    machines, rows = read()
    draw("payload", "Throughput, QoS 0, one to one", "payload in bytes", "messages/s",
         series(rows, "payload", "rate"))
    draw("latency", "Latency, QoS 1, 256 B: 99th percentile", "messages/s", "µs",
         series(rows, "latency", "p99_us"))
    draw("memory", "Memory with idle connections, one subscription each", "connections", "KiB",
         series(rows, "memory", "broker_rss_kb"))
    routes = {}
    for shape in ("exact", "plus", "hash"):
        for broker, line in series(rows, f"route-{shape}", "cpu_us").items():
            if broker == "whimbrel":
                routes[shape] = line
    COLOURS.update(exact="#0a6", plus="#36c", hash="#c63")
    draw("route", "Whimbrel: cost of a message by subscriptions", "subscriptions", "CPU µs", routes)
    for name in ("exact", "plus", "hash"):
        COLOURS.pop(name)
    cpu, sizes = standard(rows)
    page = PAGE.read_text()
    for name, text in {
        "machine": "\n".join(
            f"{row['machine']}; Linux {row['kernel']}; {row['versions']}." for row in machines
        ),
        "cpu": cpu,
        "sizes": sizes,
        "payload": by_x(rows, "payload", "cpu_us", "CPU µs a message, payload in bytes"),
        "payload-v5": by_x(rows, "payload-v5", "cpu_us", "the same with MQTT 5.0"),
        "latency": by_x(rows, "latency", "p99_us", "p99 in µs, messages/s"),
        "memory": by_x(rows, "memory", "mem_bytes_per_unit", "bytes a connection, connections"),
        "route-exact": by_x(rows, "route-exact", "cpu_us", "CPU µs a message, exact filters"),
        "route-plus": by_x(rows, "route-plus", "cpu_us", "the same, filters with `+`"),
        "route-hash": by_x(rows, "route-hash", "cpu_us", "the same, filters with `#`"),
    }.items():
        page = put(page, name, text)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
